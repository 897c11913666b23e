// exe/supervised.h
//
// This program once more, as a child that is started again whenever a signal ends it.
//
//   if (flags.supervised) return RunSupervised(program.words, "--supervised");
//
// A container ends with its first process, and a runtime then ends whatever was begun in it. What
// is to outlive a crash therefore needs a first process that doesn't crash: this one, which does
// nothing else.
//
// SIGTERM, SIGINT, SIGQUIT and SIGHUP are the child's too. A child that exits has said why, so its
// status is returned and nothing is started again; likewise after SIGTERM, SIGINT or SIGQUIT. The
// pause before the next start grows (node/back_off.h). The child doesn't outlive this process.
//
// Thread safety: once in a program, before it has threads of its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

// `words`: what this program was called with, its name included; the child gets them without
// `flag`. Fails as ChildProcess::Start().
Result<int> RunSupervised(std::vector<std::string> words, std::string_view flag);

}  // namespace sublet
