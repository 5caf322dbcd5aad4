"""Machine code made by LLVM while the node runs: what the modules that write some have in common.

Signatures are one module of LLVM's (`curve_code.py`, with `curve_writer.py` and
`challenge_code.py`), hashes, trees and payments another (`hash_code.py`, with `tree_writer.py` and
`payment_code.py`). Each replaces something that Python does one call at a time by one call for
many, and has a plain twin that gives the same results: where no code can be made, everything is as
without it, only slower.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir

BYTE: Final = ir.IntType(8)
WORD: Final = ir.IntType(64)
DIGEST_BYTES: Final = 32
_RUN: Final = 256
"""Texts that one call gets. Joining many more takes memory fresh from the system each time, and
that takes longer than what is done with them."""

Value = Any
"""A value in the code that is being written; llvmlite has no types for mypy."""


def compile_module(text: str) -> Any:
    """Return the engine that holds the code of a module in LLVM's language, for this processor.

    Its `get_function_address` tells where a function begins, as long as the engine is held.

    Raises:
        OSError: this system allows no new code in memory.
        RuntimeError: LLVM cannot make code here.
    """
    _demand_code_memory()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def find_function(engine: Any, name: str, result: Any, *parameters: Any) -> Callable[..., Any]:
    """Return a function of an engine for Python to call; a call keeps the interpreter's lock.

    For calls of microseconds: to give the lock back and to get it again would take longer.
    """
    return ctypes.PYFUNCTYPE(result, *parameters)(engine.get_function_address(name))


def _demand_code_memory() -> None:
    """Try what LLVM is about to do: it takes success for granted, and its code would be a crash.

    Raises:
        OSError: the system's policy forbids it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        held = ctypes.c_char.from_buffer(page)
        address = ctypes.c_void_p(ctypes.addressof(held))
        refused = libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        error = ctypes.get_errno()
        del held
    if refused:
        raise OSError(error, "this system allows no new code in memory")


def cut_runs(texts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield runs that are short enough to be joined in memory that is at hand."""
    return (texts[first : first + _RUN] for first in range(0, len(texts), _RUN))


def word(number: int) -> Value:
    """Return a constant of 64 bits."""
    return ir.Constant(WORD, number)


def declare(
    module: Value, name: str, parameters: Sequence[Value], *, result: Value, is_internal: bool
) -> Value:
    """Return a new function of a module; an internal one is not seen from outside."""
    function = ir.Function(module, ir.FunctionType(result, parameters), name)
    if is_internal:
        function.linkage = "internal"
    return function


def find_memcmp(module: Value) -> Value:
    """Return the C library's memcmp(one, other, length), which a module declares once."""
    if "memcmp" in module.globals:
        return module.globals["memcmp"]
    text = BYTE.as_pointer()
    kind = ir.FunctionType(ir.IntType(32), [text, text, WORD])
    return ir.Function(module, kind, "memcmp")


class Writer:
    """Writes one function."""

    def __init__(self, function: Value) -> None:
        self.b = ir.IRBuilder(function.append_basic_block())

    def at(self, pointer: Value, places: Value | int) -> Value:
        """Return the pointer so many of what it points to further on."""
        return self.b.gep(pointer, [word(places) if isinstance(places, int) else places])

    def repeat(
        self,
        count: Value | int,
        carried: Sequence[Value],
        body: Callable[[Value, list[Value]], Sequence[Value]],
    ) -> list[Value]:
        """Write a loop over 0 to count - 1, count at least 1; return what the last turn gives.

        The body gets the index and the carried values, and returns the next ones.
        """
        before, loop = self.b.block, self.b.append_basic_block()
        self.b.branch(loop)
        self.b.position_at_end(loop)
        index = self.b.phi(WORD)
        index.add_incoming(word(0), before)
        held = [self.b.phi(value.type) for value in carried]
        given = list(body(index, held))
        following = self.b.add(index, word(1))
        end, after = self.b.block, self.b.append_basic_block()
        index.add_incoming(following, end)
        for phi, first, later in zip(held, carried, given, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, end)
        limit = word(count) if isinstance(count, int) else count
        self.b.cbranch(self.b.icmp_unsigned("<", following, limit), loop, after)
        self.b.position_at_end(after)
        return given


def transpose(b: Value, rows: Sequence[Value]) -> list[Value]:
    """Return as many vectors, of which the n-th holds the n-th words of the given ones."""
    rows, lanes = list(rows), len(rows)
    places = ir.VectorType(ir.IntType(32), lanes)
    step = 1
    while step < lanes:
        for upper in (place for place in range(lanes) if not place & step):
            pair = rows[upper], rows[upper + step]
            first = [n if not n & step else lanes + n - step for n in range(lanes)]
            second = [n + step if not n & step else lanes + n for n in range(lanes)]
            rows[upper] = b.shuffle_vector(*pair, ir.Constant(places, first))
            rows[upper + step] = b.shuffle_vector(*pair, ir.Constant(places, second))
        step *= 2
    return rows
