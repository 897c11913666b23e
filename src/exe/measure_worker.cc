// `sublet measure-worker`: one of the lab's processes. Only `sublet measure` starts it.
#include <CLI/CLI.hpp>

#include "base/file_descriptor.h"
#include "exe/program.h"
#include "measure/worker.h"
#include "measure/worker_channel.h"

namespace sublet {

void AddMeasureWorkerVerb(Program& program) {
  CLI::App* verb = program.app.add_subcommand(std::string(kWorkerVerb), "");
  verb->group("");  // Not in the help: it is of no use without the lab's descriptors.
  verb->callback([&program] {
    program.chosen = []() -> Result<int> {
      RETURN_IF_ERROR(
          ServeAsWorker(FileDescriptor(kWorkerChannelFd), FileDescriptor(kWorkerLineFd)));
      return 0;
    };
  });
}

}  // namespace sublet
