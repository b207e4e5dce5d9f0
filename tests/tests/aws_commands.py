"""Holds commands of the AWS CLI that documents name against the models that the CLI is made from: each must be an
operation of its service, with parameters of it. Prints how many there are, or what is wrong with one."""

import re
import shlex
import sys

import botocore.session
from botocore import xform_name

# What every command takes.
GLOBAL = {"query", "output", "cli-binary-format", "region"}
session = botocore.session.get_session()


def commands(text):
    """The commands of a page's blocks, and those that stand in a line."""
    fences = re.compile(r"^```.*?^```", re.M | re.S)
    for block in fences.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from [line[2:]] if line.startswith("$ aws ") else []
    for quoted in re.findall(r"`(aws [^`]*)`", fences.sub("", text)):
        yield quoted.replace("\\|", "|")


def wrong(command):
    """What is wrong with a command, if anything."""
    words = shlex.split(command)
    if "|" in words:
        words = words[: words.index("|")]
    service, operation = words[1], words[2]
    model = session.get_service_model(service)
    if operation == "wait":
        waiters = {xform_name(name, "-"): name for name in session.get_waiter_model(service).waiter_names}
        if words[3] not in waiters:
            return f"there is no waiter {words[3]}"
        operation = xform_name(session.get_waiter_model(service).get_waiter(waiters[words[3]]).operation, "-")
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    if operation not in operations:
        return f"{service} has no operation {operation}"
    shape = model.operation_model(operations[operation]).input_shape
    known = {xform_name(name, "-"): member.type_name for name, member in (shape.members if shape else {}).items()}
    required = {xform_name(name, "-") for name in (shape.required_members if shape else [])}
    given = {word[2:] for word in words if word.startswith("--")}
    for option in given - GLOBAL:
        negated = option.removeprefix("no-")
        if option not in known and known.get(negated) != "boolean":
            return f"{service} {operation} has no option --{option}"
    missing = required - given
    if missing:
        return f"{service} {operation} needs {', '.join(sorted(missing))}"


count = 0
for page in sys.argv[1:]:
    with open(page, encoding="utf-8") as file:
        for command in commands(file.read()):
            count += 1
            try:
                trouble = wrong(command)
            except (ValueError, IndexError) as error:
                trouble = str(error)
            if trouble:
                sys.exit(f"{page}: {command}\n{trouble}")
print(count)
