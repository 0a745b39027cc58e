// Threads that share the pieces of one job after the other. A piece belongs to whoever takes it first, so that a thread
// that has lost its processor, or sleeps, holds nobody up that has not given it a piece already.
//
// Between jobs the threads look out for the next one for some microseconds, then sleep until they are woken. There is
// one team in a process; after a fork the child makes its own.
#pragma once

#include <cstdint>

using Piece = void (*)(const void* data, int64_t piece);

// Calls body(data, piece) for every piece in [0, pieces), on `threads` threads with that of the caller, and returns
// once all are done. One caller at a time; where another one runs a job, this one does all of its own.
void team_run(int64_t threads, int64_t pieces, Piece body, const void* data);

// Whether ranges of work go to the team, on this thread, from here to the end of the block.
struct InTeam {
  InTeam();
  ~InTeam();
};
bool in_team();
