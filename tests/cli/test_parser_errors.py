"""``one_line`` on what jsonargparse 4.53 really says."""

from __future__ import annotations

import pytest
from cli_runs import call

from plasticity_rl.cli.parser_errors import one_line

OPTIONS = {"--data.batch_size", "--data.task", "--model.lr", "--model.replay_ratio", "--config", "--help"}
NOT_A_SUBCLASS = """    - Not a valid subclass of Callback
      Subclass types expect one of:
      - a class path (str)
      - a dict with class_path entry
      - a dict without class_path but with init_args entry (class path given previously)
      - a dict with parameters accepted by the base class (implicit class_path)
"""
CALLBACKS = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[lightning.pytorch.callbacks.callback.Callback], <class 'lightning.pytorch.callbacks.callback.Callback'>, <class 'NoneType'>]
  Errors:
"""  # noqa: E501
CASES = {
    "unrecognized option": (
        "unrecognized arguments: --data.bach_size=3 --model.lr 4",
        "unrecognized arguments: --data.bach_size. Did you mean --data.batch_size",
    ),
    "unrecognized option far from all": ("unrecognized arguments: --zzz", "unrecognized arguments: --zzz."),
    "key of a file": (
        "Subcommand 'fit' does not accept option 'data.bach_size'",
        "there is no option 'data.bach_size'. Did you mean --data.batch_size",
    ),
    "wrong type": (
        "Parser key \"data.batch_size\": Expected a <class 'int'>. Got value: 2.5",
        "data.batch_size: expected int, got 2.5",
    ),
    "wrong literal": (
        "Parser key \"data.render\": Expected a typing.Literal['exact', 'fast']. Got value: slow",
        "data.render: expected one of 'exact', 'fast', got slow",
    ),
    "wrong union": (
        """Parser key "seed_everything":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'bool'>, <class 'int'>]
  Errors:
    - Expected a <class 'bool'>
    - Expected a <class 'int'>
  Given value type: <class 'str'>
  Given value: abc""",
        "seed_everything: expected bool or int, got abc",
    ),
    "one for a list": (
        "Parser key \"at_frames\": Expected a <class 'list'>. Got value: 200",
        "at_frames: expected list, got 200: write [200]",
    ),
    "class of another kind": (
        CALLBACKS
        + "    - Import path does not correspond to a subclass of Callback\n    - Expected a <class 'NoneType'>\n"
        + "  Given value type: <class 'str'>\n  Given value: noise.Plain",
        "trainer.callbacks: noise.Plain is no Callback; give a class that derives from it",
    ),
    "null among the types": (
        """Parser key "every_n_frames":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: five""",
        "every_n_frames: expected int or null, got five",
    ),
    "unknown class": (
        CALLBACKS
        + "    - Problem with given class_path 'callbacks.Rest':\n        module 'callbacks' has no attribute 'Rest'\n"
        + NOT_A_SUBCLASS
        + "    - Expected a <class 'NoneType'>\n  Given value type: <class 'list'>\n"
        + "  Given value: [{'class_path': 'callbacks.Rest'}]",
        "trainer.callbacks: no class 'callbacks.Rest' (module 'callbacks' has no attribute 'Rest'). "
        "Did you mean callbacks.Reset",
    ),
    "unknown package": (
        CALLBACKS
        + "    - Problem with given class_path 'calbacks.Reset':\n        No module named 'calbacks'\n"
        + "  Given value type: <class 'str'>\n  Given value: calbacks.Reset",
        "trainer.callbacks: no class 'calbacks.Reset' (No module named 'calbacks'). Did you mean callbacks.Reset",
    ),
    "file of one's own that is not there": (
        CALLBACKS
        + "    - Problem with given class_path 'noise.CriticNoise':\n        No module named 'noise'\n"
        + "  Given value type: <class 'str'>\n  Given value: noise.CriticNoise",
        "trainer.callbacks: no class 'noise.CriticNoise' (No module named 'noise'). A file noise.py of your own is "
        "found beside a --config file that you name, in the current folder, and in the folders of PLASTICITY_RL_PATH.",
    ),
    "callback of ours in another package": (
        CALLBACKS
        + "    - Problem with given class_path 'noise.CReLUs':\n        No module named 'noise'\n"
        + "  Given value type: <class 'str'>\n  Given value: noise.CReLUs",
        "trainer.callbacks: no class 'noise.CReLUs' (No module named 'noise'). A file noise.py of your own is "
        "found beside a --config file that you name, in the current folder, and in the folders of PLASTICITY_RL_PATH. "
        "Did you mean callbacks.CReLU",
    ),
    "class without package": (
        CALLBACKS
        + "    - Expected a dot import path string: Rest\n    - Expected a dot import path string: Rest\n"
        + "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: Rest",
        "trainer.callbacks: no class 'Rest'; write its path, package.Name. Did you mean callbacks.Reset",
    ),
    "argument of a class, inner report": (
        "Option 'bach_size' is not accepted",
        "there is no option 'bach_size'. Did you mean data.batch_size",
    ),
    "argument of a class, far from all": (
        "Option 'zzz' is not accepted",
        "there is no option 'zzz'. There are ['config', 'data.batch_size', 'data.task', 'model.lr', "
        "'model.replay_ratio'].",
    ),
    "argument of a class, outer report": (
        CALLBACKS
        + "    - there is no option 'every_n_frame'. Did you mean every_n_frames?\n"
        + NOT_A_SUBCLASS
        + "    - Expected a <class 'NoneType'>\n  Given value type: <class 'list'>\n"
        + "  Given value: [{'class_path': 'callbacks.Reset', 'init_args': {'every_n_frame': 5}}]",
        "trainer.callbacks: Reset: there is no option 'every_n_frame'. Did you mean every_n_frames?",
    ),
    "missing arguments of a class": (
        CALLBACKS
        + "    - the following arguments are required: at_frame, on\n"
        + NOT_A_SUBCLASS
        + "    - Expected a <class 'NoneType'>\n  Given value type: <class 'list'>\n  Given value: [Namespace("
        + "class_path='callbacks.ToggleAugmentation', init_args=Namespace(at_frame=None, on=None))]",
        "trainer.callbacks: ToggleAugmentation: the following arguments are required: at_frame, on",
    ),
    "refused by the constructor": (
        CALLBACKS
        + "    - L2Init.coefficient=-1.0 must be >= 0\n  Given value type: <class 'list'>\n"
        + "  Given value: [Namespace(class_path='callbacks.L2Init', init_args=Namespace(coefficient=-1.0))]",
        "trainer.callbacks: L2Init.coefficient=-1.0 must be >= 0",
    ),
    "one of several callbacks": (
        CALLBACKS
        + "    - the following arguments are required: on\n  Given value type: <class 'list'>\n"
        + "  Given value: [{'class_path': 'callbacks.Reset'}, {'class_path': 'callbacks.ToggleAugmentation'}]",
        "trainer.callbacks: the following arguments are required: on",
    ),
    "callable": (
        """Parser key "data.env":

  - Expected a path but tiny_env.nothing either not accessible or invalid
  - Type collections.abc.Callable[..., torchrl.envs.common.EnvBase] expects a function or a callable class: module 'tiny_env' has no attribute 'nothing'. Got value: tiny_env.nothing""",  # noqa: E501
        "data.env: module 'tiny_env' has no attribute 'nothing'. Got value: tiny_env.nothing",
    ),
    "link": (
        "Call to compute_fn of link 'as_seed(seed_everything) --> data.seed' with args (-5) failed: "
        "seed_everything=-5 must be a whole number",
        "seed_everything=-5 must be a whole number",
    ),
    "missing file": (
        "Parser key \"config\": File does not exist: '/nowhere.yaml'",
        "config: File does not exist: '/nowhere.yaml'",
    ),
    "anything else": (
        "argument --max_frames: expected\n  one   argument",
        "argument --max_frames: expected one argument",
    ),
}


@pytest.mark.parametrize(("message", "expected"), CASES.values(), ids=CASES)
def test_a_report_becomes_one_line(message, expected):
    line = one_line(message, OPTIONS)
    assert line.startswith(expected)
    assert "\n" not in line
    assert "NoneType" not in line
    assert "<class" not in line


def test_suggested_callbacks_are_those_that_exist():
    """The line ends in names that can be copied."""
    report = CALLBACKS + "    - Problem with given class_path 'callbacks.Zzz':\n        module has no attribute 'Zzz'\n"
    line = one_line(report)
    assert "There are callbacks." in line
    for name in __import__("callbacks").__all__:
        assert f"callbacks.{name}" in line


def test_other_classes_get_no_callbacks_suggested():
    report = CALLBACKS.replace("trainer.callbacks", "trainer.logger") + "    - Expected a dot import path string: Foo\n"
    assert one_line(report) == "trainer.logger: no class 'Foo'; write its path, package.Name."


@pytest.mark.parametrize("args", [("plot", "run", "--ou=f.png"), ("probe", "last.ckpt", "--prob=SRank")], ids=str)
def test_small_commands_take_no_option_that_is_cut_short_either(args):
    *_, option = args
    name = {"--ou": "--out", "--prob": "--probes"}[option.partition("=")[0]]
    result = call(*args)
    assert result.code == 2
    assert f"unrecognized arguments: {option}. Did you mean {name}" in result.err
