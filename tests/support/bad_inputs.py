"""Wrong inputs of the command line, and what the one line about each must say: option, value, what is allowed, fix."""

from __future__ import annotations

from dataclasses import dataclass

HUGE_INT = 10**20
STATE = ["--data.observation=state", "--model.augment=false"]
REAL = ["--data.env=plasticity_rl.make_env", "--data.task=cartpole_swingup", "--data.render=fast"]
HUGE = ["--data.capacity=100000000000", "--max_frames=1000000000000"]


@dataclass(frozen=True)
class Bad:
    """One wrong input.

    Attributes:
        args: The command line; ``fit`` and ``validate`` get a tiny run in ``FOLDER/run`` in front of these options.
            ``FOLDER`` stands for the folder that must stay as it is.
        says: Regular expression that the line must match somewhere.
        yaml: Text of ``FOLDER/config.yaml``, which is then added with ``--config``.
        base: ``tiny`` for options of a tiny run in front, ``sac`` for the same with SAC, ``none`` for the bare command.
    """

    args: tuple[str, ...]
    says: str
    yaml: str | bytes | None = None
    base: str = "tiny"


def fit(*options: str, says: str, yaml: str | bytes | None = None, base: str = "tiny") -> Bad:
    return Bad(("fit", *options), says, yaml, base)


def bare(*args: str, says: str) -> Bad:
    return Bad(args, says, base="none")


def config(text: str | bytes, says: str) -> Bad:
    return Bad(("fit",), says, text)


def callback(name: str, arguments: str, says: str, *options: str, base: str = "tiny") -> Bad:
    """One callback in YAML, with its arguments as flow mapping."""
    return Bad(("fit", *options), says, f"trainer: {{callbacks+: [{_entry(name, arguments)}]}}", base)


def two(one: tuple[str, str], other: tuple[str, str], says: str) -> Bad:
    return Bad(("fit",), says, f"trainer: {{callbacks+: [{_entry(*one)}, {_entry(*other)}]}}")


def _entry(name: str, arguments: str) -> str:
    return f"{{class_path: callbacks.{name}, init_args: {{{arguments}}}}}"


WORDS = {
    "unknown command": bare("fti", says=r"no command 'fti'; there are fit, validate, .*Did you mean fit\?"),
    "unknown command, another": bare("validat", says=r"no command 'validat'; .*Did you mean validate\b"),
    "option before the command": bare("--config", "a.yaml", says=r"no command '--config'; there are fit,"),
    "unknown option": fit("--data.bach_size=3", says=r"--data\.bach_size\. Did you mean --data\.batch_size"),
    "unknown option, far from all": fit(
        "--model.entropy=3", says=r"--model\.entropy\. There are --model\.augment, .*--model\.lr,"
    ),
    "unknown option of the trainer": fit("--trainer.device=2", says=r"--trainer\.device\..*--trainer\.devices"),
    "unknown top-level option": fit("--maxframes=3", says=r"--maxframes\. Did you mean --max_frames"),
    "one dash": fit("-data.task=tiny", says=r"-data\.task\. Did you mean --data\.task"),
    "stray word": fit("walker_run", says=r"unrecognized arguments: walker_run\. .*--data\.task"),
    "option without value": fit("--max_frames", says=r"--max_frames: expected one argument"),
    "unknown agent": fit("--agent=ppo", says=r"agent='ppo' is not an agent; there are \['drqv2', 'sac', 'dqn'\]"),
    "option of another agent": fit(
        "--model.num_channels=4", says=r"--model\.num_channels.*(--model\.|--agent)", base="sac"
    ),
    "validate without checkpoint": Bad(("validate",), r"validate needs --ckpt_path .*checkpoints/last\.ckpt"),
    "probe of nothing": bare("probe", says=r"give one CHECKPOINT, or two after --compare"),
    "probe of no file": bare("probe", "FOLDER/none.ckpt", says=r"FOLDER/none\.ckpt: no such file; give a checkpoint"),
    "probe of a text": bare("probe", "FOLDER/text.ckpt", says=r"FOLDER/text\.ckpt is not a checkpoint"),
    "probe with few frames": bare(
        "probe", "x.ckpt", "--rollout_frames=0", says=r"--rollout_frames: '0' must be a whole number >= 1"
    ),
    "probe into no folder": bare(
        "probe", "x.ckpt", "--json", "FOLDER/no/x.json", says=r"--json FOLDER/no/x\.json: there is no folder FOLDER/no"
    ),
    "probe into a folder": bare("probe", "x.ckpt", "--json", "FOLDER", says=r"--json FOLDER is a folder: name a file"),
    "unknown option of probe": bare(
        "probe",
        "x.ckpt",
        "--layer_s",
        says=r"unrecognized arguments: --layer_s\. Did you mean --layers, .*; see .*help",
    ),
    "plot of nothing": bare("plot", says=r"required: RUN; see plasticity-rl plot --help"),
    "plot of no run": bare("plot", "FOLDER/none", says=r"FOLDER/none"),
    "plot into an unknown format": bare(
        "plot", "FOLDER/none", "--out=figure.xyz", says=r"--out figure\.xyz: the file must end in one of \.png, \.svg"
    ),
    "plot of one point": bare("plot", "run", "--max_points=1", says=r"--max_points: '1' must be a whole number >= 2"),
    "unknown option of doctor": bare("doctor", "--jsn=x", says=r"--jsn\. Did you mean --json.* See .*doctor --help"),
    "stray word for doctor": bare("doctor", "quickstart", says=r"unrecognized arguments: quickstart\."),
    "doctor into a folder": bare("doctor", "--json", "FOLDER", says=r"--json FOLDER is a folder: name a file in it"),
    "doctor into no folder": bare("doctor", "--json", "FOLDER/no/x.json", says=r"there is no folder FOLDER/no"),
}

FILES = {
    "arguments beside a class path": config(
        "trainer: {callbacks+: [{class_path: callbacks.Reset, modules: [critic]}]}",
        r"trainer\.callbacks: Reset: arguments of an entry go below init_args",
    ),
    "missing file": fit("--config=FOLDER/nowhere.yaml", says=r"--config FOLDER/nowhere\.yaml: no such file"),
    "folder as file": fit("--config=FOLDER/occupied", says=r"config.*FOLDER/occupied"),
    "empty file": config("", r"FOLDER/config\.yaml must hold options .*holds nothing"),
    "comments only": config("# data: {}\n", r"config\.yaml must hold options .*holds nothing"),
    "a list": config("- data\n- model\n", r"config\.yaml must hold options .*holds a list"),
    "a sentence": config("train the agent\n", r"config\.yaml must hold options .*holds a str"),
    "open bracket": config("data: [3\nmodel: }", r"config\.yaml is not valid YAML: .*line 2"),
    "missing indent": config("data:\n  task: tiny\n batch_size: 8\n", r"config\.yaml is not valid YAML: .*line 3"),
    "tabs": config("data:\n\tbatch_size: 3\n", r"config\.yaml is not valid YAML: .*line 2.*spaces"),
    "two documents": config("data: {}\n---\nmodel: {}\n", r"config\.yaml is not valid YAML: .*line 2"),
    "not text": config(b"\xff\xfe\x00\x01", r"config\.yaml is not valid YAML"),
    "alias of itself": config("data: &a {task: *a}\n", r"config\.yaml is not valid YAML: .*an alias holds itself"),
    "number for a name": config("data: {5: 3}\n", r"config\.yaml: data\.5: the name of an option must be a word"),
    "nothing for a name": config("{null: 3}\n", r"config\.yaml: None: the name of an option must be a word"),
    "code in a file": config("data: !!python/object/apply:os.mkdir [executed]\n", r"is not valid YAML: .*os\.mkdir"),
    "duplicate key": config("data:\n  n_step: 3\n  n_step: 5\n", r"config\.yaml .*'n_step' twice.*line 3"),
    "duplicate section": config("data: {n_step: 3}\ndata: {discount: 1.0}\n", r"'data' twice.*line 2"),
    "unknown key": config("data: {bach_size: 3}", r"no option 'data\.bach_size'\. Did you mean --data\.batch_size"),
    "unknown top-level key": config("batch_size: 3", r"no option 'batch_size'\. Did you mean --data\.batch_size"),
    "unknown key, far from all": config("model: {zzz: 3}", r"no option 'model\.zzz'.*--model\.lr"),
    "section as number": config("data: 5", r"data: .*5"),
    "section as list": config("model: [lr, 3]", r"model: .*\[.*lr.*3\]"),
    "text for a number": config("data: {batch_size: many}", r"data\.batch_size: expected int, got many"),
    "fraction for a whole number": config("data: {batch_size: 2.5}", r"data\.batch_size: expected int, got 2\.5"),
    "null for a number": config("data: {batch_size: null}", r"data\.batch_size: null is no value; .*default, 256"),
    "null for a rate": config("model: {lr: null}", r"model\.lr: null is no value; .*default"),
    "null for an argument": callback(
        "L2Init", "coefficient: null", r"L2Init\.coefficient: null is no value; leave it out"
    ),
    "null for an encoder": callback("CURL", "encoder: null", r"CURL\.encoder: null is no value; leave it out"),
    "text for a switch": config("model: {augment: maybe}", r"model\.augment: expected bool or null, got maybe"),
    "unknown reference": config("data: {capacity: '${fit.data.bach}'}", r"'fit\.data\.bach' not found"),
    "relative reference": config("data: {capacity: '${data.n_step}'}", r"keys are absolute .*\$\{fit\.data"),
    "unknown agent in a file": config("agent: ppo", r"agent='ppo' is not an agent; there are"),
    "file of another agent": fit(
        "--config=FOLDER/config.yaml",
        "--agent=drqv2",
        yaml="agent: sac",
        says=r"config\.yaml holds .*agent=sac, but .*drqv2",
    ),
    "unknown class": config(
        "trainer: {callbacks+: [{class_path: callbacks.Rest}]}", r"no class 'callbacks\.Rest'.*mean callbacks\.Reset"
    ),
    "class without package": config(
        "trainer: {callbacks+: [{class_path: Resets}]}", r"no class 'Resets'; write its path.*mean callbacks\.Reset"
    ),
    "wrong package": config("trainer: {callbacks+: [{class_path: calbacks.Reset}]}", r"No module named 'calbacks'"),
    "class of another kind": config(
        "trainer: {callbacks+: [{class_path: plasticity_rl.augment.RandomShift}]}",
        r"trainer\.callbacks: .*plasticity_rl\.augment\.RandomShift.*[Cc]allback",
    ),
    "callback without class": config(
        "trainer: {callbacks+: [{init_args: {at_frames: [5]}}]}", r"trainer\.callbacks.*class_path"
    ),
    "callback as number": config("trainer: {callbacks+: [5]}", r"trainer\.callbacks.*5"),
    "wrong argument": callback("Reset", "every_n_frame: 5", r"Reset: .*'every_n_frame'\. Did you mean every_n_frames"),
    "text for an argument": callback(
        "Reset", "every_n_frames: often", r"every_n_frames: expected int or null, got often"
    ),
    "missing arguments": callback("ToggleAugmentation", "", r"ToggleAugmentation: .*required: at_frame, on"),
}

_AT_LEAST_1 = r"=0 must be a whole number >= 1"
RANGES = {
    **{
        f"no {name}": fit(f"--data.{name}=0", says=rf"data\.{name}{_AT_LEAST_1}")
        for name in ("action_repeat", "frame_stack", "image_size", "num_envs", "n_step", "batch_size", "capacity")
    },
    **{
        f"no {name}": fit(f"--data.{name}=0", says=rf"data\.{name}{_AT_LEAST_1}")
        for name in ("eval_every_n_frames", "num_eval_episodes")
    },
    **{
        f"no {name}": fit(f"--model.{name}=0", says=rf"model\.{name}{_AT_LEAST_1}")
        for name in ("feature_dim", "hidden_dim", "num_channels")
    },
    "unknown compiler": fit("--model.compile=inductr", says=r"model\.compile='inductr' .*Did you mean inductor"),
    "no frames": fit("--max_frames=0", says=rf"max_frames{_AT_LEAST_1}"),
    "discount above 1": fit("--data.discount=1.5", says=r"data\.discount=1\.5 must be in \[0, 1\]"),
    "discount of nan": fit("--data.discount=nan", says=r"data\.discount(: expected float, got nan|=nan must be in)"),
    "image too small": fit("--data.image_size=8", says=r"image_size=8 is too small for the encoder"),
    "unknown observation": fit(
        "--data.observation=sound", says=r"observation: expected one of 'pixels', 'state', got sound"
    ),
    "unknown rendering": fit("--data.render=slow", says=r"data\.render: expected one of 'exact', 'fast', got slow"),
    "unknown storage": fit(
        "--data.storage=tape", says=r"data\.storage: expected one of 'ram', 'memmap', 'device', got tape"
    ),
    "unknown camera": fit(*REAL, "--data.camera_id=9", says=r"camera_id=9 .*"),
    "unknown task": fit(*REAL, "--data.task=walker_rum", says=r"task='walker_rum' .*Did you mean walker_run"),
    "task of another name": fit(
        *REAL, "--data.task=ball_in_cup_catch", says=r"task='ball_in_cup_catch' .*mean .*cup_catch"
    ),
    "task with a dash": fit(*REAL, "--data.task=walker-walk", says=r"task='walker-walk' .*Did you mean walker_walk"),
    "unknown env factory": fit("--data.env=tiny_env.nothing", says=r"data\.env: .*no attribute 'nothing'"),
    "negative seed": fit(
        "--seed_everything=-5", says=r"seed_everything=-5 must be a whole number from 0 to 4294967295"
    ),
    "seed too large": fit(
        "--seed_everything=4294967296", says=r"seed_everything=4294967296 must be .* 0 to 4294967295"
    ),
    "seed of text": fit("--seed_everything=abc", says=r"seed_everything: expected bool or int, got abc"),
    "learning rate 0": fit("--model.lr=0", says=r"model\.lr=0(\.0)? must be in \(0, 1\](?!.*stddev)"),
    "learning rate of nan": fit(
        "--model.lr=nan", says=r"model\.lr(: expected float, got nan|=nan must be in \(0, 1\])"
    ),
    "learning rate of text": fit("--model.lr=fast", says=r"model\.lr: expected float, got fast"),
    "target step 0": fit("--model.critic_target_tau=0", says=r"model\.critic_target_tau=0(\.0)? must be in \(0, 1\]"),
    "target step above 1": fit("--model.critic_target_tau=2", says=r"critic_target_tau=2(\.0)? must be in \(0, 1\]"),
    "unknown schedule": fit(
        "--model.stddev_schedule=linear(1,2)", says=r"model\.stddev_schedule='linear\(1,2\)' is not a sch"
    ),
    "negative noise": fit("--model.stddev_schedule=-1", says=r"model\.stddev_schedule=.*negative.*>= 0"),
    "schedule in no time": fit("--model.stddev_schedule=linear(1,0,0)", says=r"stddev_schedule=.*duration.*> 0"),
    "negative clip": fit("--model.stddev_clip=-1", says=r"model\.stddev_clip=-1(\.0)? must be >= 0(?!.*lr)"),
    "replay ratio 0": fit("--model.replay_ratio=0", says=r"replay_ratio=0(\.0)? must be > 0"),
    "replay ratio of nan": fit(
        "--model.replay_ratio=nan", says=r"replay_ratio(: expected float, got nan|=nan must be > 0)"
    ),
    "replay ratio of text": fit("--model.replay_ratio=often", says=r"model\.replay_ratio: expected float, got often"),
    "negative seed phase": fit("--model.num_seed_frames=-1", says=r"num_seed_frames=-1 must be a whole number >= 0"),
    "negative shift": fit("--model.random_shift_pad=-1", says=r"random_shift_pad=-1 must be a whole number >= 0"),
    "unknown augmentation": fit(
        "--model.augmentations+=plasticity_rl.augment.RandomShif",
        says=r"model\.augmentations: no class .*RandomShif'.*Did you mean .*RandomShift",
    ),
    "augmentation out of range": fit(
        "--model.augmentations+=plasticity_rl.augment.RandomShift",
        "--model.augmentations.pad=-1",
        says=r"RandomShift\.pad=-1 must be a whole number >= 0",
    ),
    "temperature 0": fit("--model.init_temperature=0", says=r"model\.init_temperature=0(\.0)? must be > 0", base="sac"),
    "temperature beyond float32": fit(
        "--model.init_temperature=1e300", says=r"init_temperature=1e\+300 must be .* at most 1e\+06", base="sac"
    ),
    "entropy of nan": fit(
        "--model.target_entropy=.nan", says=r"target_entropy=nan must be a number of nats .*published: -\d", base="sac"
    ),
    "temperature of text": fit(
        "--model.init_temperature=hot", says=r"init_temperature: expected float, got hot", base="sac"
    ),
}


LIMITS = {
    **{
        f"{option} beyond 64 bits": fit(
            f"--{option}={HUGE_INT}", says=rf"{option}={HUGE_INT} does not fit in 64 bits; use .* up to {2**63 - 1}"
        )
        for option in ("max_frames", "data.image_size", "data.capacity", "data.num_eval_episodes", "model.hidden_dim")
    },
    "argument beyond 64 bits": callback(
        "SRank", f"every_n_updates: {HUGE_INT}", rf"SRank\.every_n_updates={HUGE_INT} does not fit in 64 bits"
    ),
    "frames beyond 64 bits": callback(
        "Reset", f"at_frames: [50, {HUGE_INT}]", rf"Reset\.at_frames={HUGE_INT} does not fit in 64 bits"
    ),
    "infinite coefficient": callback("CURL", "coefficient: .inf", r"CURL\.coefficient=inf must be a finite number"),
    "infinite rate": fit("--model.lr=.inf", says=r"model\.lr=inf must be a finite number"),
    "image of 5000 pixels": fit("--data.image_size=5000", says=r"image_size=5000 must be at most 4096: .*: 84"),
    "image of 5000 pixels, drawn": fit(*REAL, "--data.image_size=5000", says=r"image_size=5000 must be at most 4096"),
    "image of a billion pixels": fit("--data.image_size=1000000000", says=r"image_size=1000000000 must be at most"),
    "stack larger than memory": fit(
        "--data.frame_stack=10000000000",
        says=r"data\.batch_size=8: .* one batch alone take \d+ bytes .*available: .*--data\.frame_stack",
    ),
    "batch larger than memory": fit(
        "--data.batch_size=1000000000",
        "--data.capacity=1000000000",
        says=r"data\.batch_size=1000000000: .* take \d+ bytes .*available: lower it",
    ),
    "batch of states larger than memory": fit(
        "--data.batch_size=1000000000000",
        "--data.capacity=1000000000000",
        says=r"data\.batch_size=10+: .* take \d+ bytes .*available",
        base="sac",
    ),
    **{
        f"{name} larger than memory": fit(
            f"--model.{name}=100000000", says=rf"model\.{name}=100000000.* parameters take \d+ bytes .*available: lower"
        )
        for name in ("hidden_dim", "feature_dim", "num_channels")
    },
    "SAC larger than memory": fit(
        "--model.hidden_dim=100000000", says=r"model\.hidden_dim=10+: .*available: lower .*published: 256", base="sac"
    ),
    "too many environments": fit(
        "--data.num_envs=2000", "--data.eval_every_n_frames=4000", says=r"num_envs=2000 must be at most 1024"
    ),
    "negative workers": fit(
        "--data.env_workers=-1", says=r"env_workers=-1 must be a whole number >= 0; 0 steps the env"
    ),
    "workers without environments": fit(
        "--data.env_workers=3", "--data.num_envs=2", says=r"env_workers=3 must be at most data\.num_envs=2, .*--data"
    ),
    "one step longer than the run": fit(
        "--data.num_envs=200", says=r"num_envs=200 \* data\.action_repeat=2 = 400 env frames .*max_frames=200"
    ),
    "evaluation without end": fit(
        "--data.num_eval_episodes=1000000000", says=r"num_eval_episodes=1000000000 must be at most 10000"
    ),
    "replay ratio without end": fit("--model.replay_ratio=1e300", says=r"replay_ratio=1e\+300 must be at most 1000"),
    "replay ratio just beyond": fit("--model.replay_ratio=1000.5", says=r"replay_ratio=1000\.5 must be at most 1000"),
    "learning rate above 1": fit("--model.lr=1e30", says=r"model\.lr=1e\+30 must be in \(0, 1\]"),
    "infinite noise": fit(
        "--model.stddev_schedule=linear(1e400,0.1,100)", says=r"stddev_schedule='linear.*must be of finite numbers"
    ),
    "shift by the whole image": fit(
        "--model.random_shift_pad=16", says=r"model\.random_shift_pad=16 must be less than the 16 pixels"
    ),
    "shift by the whole image in a chain": fit(
        "--model.augmentations+=plasticity_rl.augment.RandomShift",
        "--model.augmentations.pad=16",
        says=r"model\.augmentations: RandomShift\.pad=16 must be less than the 16 pixels",
    ),
    "replay folder without a name": fit("--data.replay_dir=", says=r"data\.replay_dir='' names no folder"),
}
"""Numbers that nothing forbids but the machine, 64 bits, or time."""
