#pragma once

// The namespace of all operators, and what they are registered with: the emulation in
// tests/emulation compiles the same sources for a device of its own.

#include <torch/library.h>

#define TRAJGRU_NAMESPACE_NAME "trajgru_ext"
#define TRAJGRU_LIBRARY(m) TORCH_LIBRARY(trajgru_ext, m)
#define TRAJGRU_LIBRARY_IMPL(key, m) TORCH_LIBRARY_IMPL(trajgru_ext, key, m)
