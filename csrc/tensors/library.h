#pragma once

// The operators' namespace. A second build of the same sources (the emulation in
// tests/emulation) names its own, so that both can be loaded side by side.

#include <torch/library.h>

#ifndef TRAJGRU_NAMESPACE
#define TRAJGRU_NAMESPACE trajgru_ext
#endif

// One more step, so that the macros' arguments are expanded before torch's are.
#define TRAJGRU_LIBRARY_EXPANDED(ns, m) TORCH_LIBRARY(ns, m)
#define TRAJGRU_LIBRARY_IMPL_EXPANDED(ns, key, m) TORCH_LIBRARY_IMPL(ns, key, m)

#define TRAJGRU_LIBRARY(m) TRAJGRU_LIBRARY_EXPANDED(TRAJGRU_NAMESPACE, m)
#define TRAJGRU_LIBRARY_IMPL(key, m) \
  TRAJGRU_LIBRARY_IMPL_EXPANDED(TRAJGRU_NAMESPACE, key, m)

#define TRAJGRU_QUOTED(ns) #ns
#define TRAJGRU_QUOTED_EXPANDED(ns) TRAJGRU_QUOTED(ns)
#define TRAJGRU_NAMESPACE_NAME TRAJGRU_QUOTED_EXPANDED(TRAJGRU_NAMESPACE)
