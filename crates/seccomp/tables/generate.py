#!/usr/bin/env python3
"""Writes src/table.rs: system call numbers by name for the five architectures.

Input are the kernel's own headers as Debian packages them (linux-libc-dev for x86, and the -arm64-cross and
-armhf-cross packages, unpacked with `dpkg-deb -x` below a directory), and LATER for what is newer than them.

    tables/generate.py /usr/include/x86_64-linux-gnu UNPACKED_ARM64_INCLUDE UNPACKED_ARM_INCLUDE > src/table.rs
"""

import re
import subprocess
import sys

# Since 5.1 a new call has one number everywhere (Documentation/process/adding-syscalls.rst). Kernels 6.2 to 7.0.
LATER = {
    "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
    "futex_requeue": 456, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464,
    "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
    "listns": 470, "rseq_slice_yield": 471,
}
# Only on x86-64: 6.11 and 6.18.
LATER_X86_64 = {"uretprobe": 335, "uprobe": 336}
X32_BIT = 0x40000000


def numbers(include, header, *defines):
    """Every `__NR_name` (on ARM also `__ARM_NR_name`) of a header with its value."""
    run = lambda *more, text: subprocess.run(
        ["cpp", "-undef", "-nostdinc", "-P", f"-I{include}", *defines, *more, "-"],
        input=text, capture_output=True, text=True, check=True).stdout
    macros = run("-dM", text=f"#include <{header}>\n")
    names = set(re.findall(r"^#define (__(?:ARM_)?NR_\w+) ", macros, re.M))
    names -= {"__NR_syscalls", "__NR_Linux", "__NR_SYSCALL_BASE", "__NR_SYSCALL_MASK", "__NR_OABI_SYSCALL_BASE",
              "__NR_arch_specific_syscall", "__NR_sync_file_range2_", "__ARM_NR_BASE"}
    text = f"#include <{header}>\n" + "".join(f"VALUE {n[2:]} {n}\n" for n in sorted(names))
    values = re.findall(r"^VALUE (?:ARM_)?NR_(\w+) (.+)$", run(text=text), re.M)
    return {name: eval(value, {"__builtins__": {}}) for name, value in values}  # sums of numbers


def main():
    x86, arm64, arm = sys.argv[1:]
    columns = [
        numbers(x86, "asm/unistd_64.h") | LATER | LATER_X86_64,
        numbers(x86, "asm/unistd_x32.h", f"-D__X32_SYSCALL_BIT={X32_BIT}")
        | {name: X32_BIT + number for name, number in LATER.items() if name != "map_shadow_stack"},
        numbers(x86, "asm/unistd_32.h") | LATER,
        numbers(arm64, "asm/unistd.h", "-D__aarch64__") | LATER,
        numbers(arm, "asm/unistd.h", "-D__ARM_EABI__") | LATER,
    ]
    print("//! System call numbers by name, sorted by name; written by `tables/generate.py`, not by hand.")
    print()
    print("use crate::row::{NONE, Row, X32, row};")
    print()
    print("/// Columns: x86-64, x32, x86, AArch64, ARM.")
    print("#[rustfmt::skip]")
    print("pub(crate) const TABLE: &[Row] = &[")
    for name in sorted(set().union(*columns)):
        cells = []
        for column, table in enumerate(columns):
            number = table.get(name)
            cells.append("NONE" if number is None
                         else f"X32 + {number - X32_BIT}".removesuffix(" + 0") if column == 1
                         else f"{number:#x}" if number >= 0xf0000 else str(number))
        print(f'    row("{name}", {", ".join(cells)}),')
    print("];")


main()
