//! The demo: the main job in one command.

use crate::program::World;

#[test]
fn the_demo_ends_well() {
    let world = World::new();
    let ran = world.run(["demo"]);
    let out = ran.ok();
    for wanted in [" ✓ ana ", " ✓ ben ", " ✓ cleo ", " ✓ dora ", " ✓ broker "] {
        assert!(out.contains(wanted), "{wanted} in {out}");
    }
    assert!(!out.contains('\u{1b}'), "no colour where nobody looks");
    assert_eq!(ran.stderr, "");
}

#[test]
fn the_demo_takes_a_text_of_eight_lines_and_none_shorter() {
    let world = World::new();
    world.write("text", "one\n\nthree of a text that is short\n\n\nsix\nseven\neight");
    let out = world.run(["demo", "--file", "text"]).ok();
    assert!(out.contains(" ✓ dora       lines 5–8 "), "{out}");
    world.write("text", "one\ntwo\n");
    world.run(["demo", "--file", "text"]).fails(2, "fewer than 8 lines", "longer");
    world.run(["demo", "--file", "none"]).fails(2, "cannot read none", "--file");
}
