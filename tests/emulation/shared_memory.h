#pragma once

// Shared memory is read and written through these where its banks are counted: in the
// traced build, by trace.cpp.

#include <cstddef>

namespace emulation {

#if defined(TRAJGRU_TRACE)
void note_shared(const void* at, size_t bytes);
#else
inline void note_shared(const void*, size_t) {}
#endif

}  // namespace emulation
