"""The arrows between the packages point one way, and the front door is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import warm_python


ROOT = Path(__file__).resolve().parent.parent

# Folder -> what of ours it may import besides itself.
ALLOWED = {
    "modeling": set(),
    "data_scripts": {"spooftrace.audio"},
    "spooftrace": {"spooftrace.modeling"},
    "trainers": {"spooftrace.modeling", "spooftrace.data_scripts", "spooftrace"},
    "spaces": {"spooftrace.modeling", "spooftrace.data_scripts", "spooftrace", "spooftrace.trainers"},
}
SUBPACKAGES = ("spooftrace.modeling", "spooftrace.data_scripts", "spooftrace.trainers", "spooftrace.spaces")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names imported anywhere in a file; relative ones keep their dots."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def package_of(name: str) -> str:
    return next((package for package in SUBPACKAGES if (name + ".").startswith(package + ".")), "spooftrace")


@pytest.mark.parametrize("folder", [name for name in ALLOWED if (ROOT / name).is_dir()])
def test_arrows_point_one_way(folder):
    own = "spooftrace" if folder == "spooftrace" else f"spooftrace.{folder}"
    for path in sources(folder):
        for name in imports(path):
            if name.split(".")[0] != "spooftrace" or package_of(name) == own:
                continue
            # The command line sits on top of everything.
            if path.parent.name == "cli":
                continue
            allowed = package_of(name) in ALLOWED[folder] or name in ALLOWED[folder]
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", sources("modeling"), ids=lambda path: path.name)
def test_travelling_code_is_self_contained(path):
    """transformers copies only what `from .flat_name import x` names, and needs evaluated annotations."""
    converter = path.name.startswith("convert_") or path.name == "__init__.py"
    travelling = {
        "huggingface_hub",
        "numpy",
        "peft",  # behind `is_peft_available()`
        "safetensors",
        "torch",
        "transformers",
        "types",
        "argparse",
        "dataclasses",
        "hashlib",
        "math",
        "os",
        "pickle",
        "re",
        "typing",
        "collections",
    }
    for name in imports(path):
        if name.startswith("."):
            assert not name.startswith("..") and len(name) > 1 and "." not in name[1:], f"{path.name}: from {name}"
            assert converter or not name.startswith(".convert_"), f"{path.name} imports {name}, which does not travel"
        elif not converter:
            assert name.split(".")[0] in travelling, f"{path.name} imports {name}"
        assert name != "__future__", f"{path.name}: postponed annotations break PreTrainedModel.config and @strict"


def test_nothing_imports_a_folder_by_its_bare_name():
    """`import modeling` from the repository root would make a second set of classes."""
    bare = {"modeling", "trainers", "data_scripts", "spaces"}
    for folder in (*ALLOWED, "tests", "benchmarks"):
        for path in sources(folder):
            assert not {name.split(".")[0] for name in imports(path)} & bare, path


@pytest.mark.parametrize("statement", ["import spooftrace", "from spooftrace.cli import main; main(['--help'])"])
def test_the_front_door_is_light(statement):
    program = f"""
import sys
try:
    {statement}
except SystemExit:
    pass
heavy = {{"torch", "transformers", "numpy", "soundfile", "soxr", "huggingface_hub"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["modeling", "trainers"])
def test_a_clone_works_where_it_hides_an_installed_package(name):
    """`python -m spooftrace` and scripts find the clone's spooftrace/ first, which holds neither folder."""
    program = f"""
import sys, importlib.util
sys.meta_path[:] = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
sys.path.insert(0, {str(ROOT)!r})
print(importlib.util.find_spec("spooftrace.{name}").origin)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).parent == ROOT / name


def test_every_lazy_name_is_real():
    program = """
import spooftrace
for name in spooftrace.__all__:
    assert getattr(spooftrace, name) is not None, name
assert set(spooftrace.__all__) <= set(dir(spooftrace))
try:
    spooftrace.nothing
except AttributeError as error:
    assert "nothing" in str(error)
"""
    warm_python.run("-c", program, check=True)
