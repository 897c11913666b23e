// render/tests/child_process.h
//
// Runs a real program and waits for it.
//
//   const Finished done = RunProgram({"/bin/sh", "-c", "echo $X"}, {"X=1", "PATH=/usr/bin:/bin"});
//   EXPECT_EQ(done.out, "1\n");
#pragma once

#include <string>
#include <vector>

namespace sublet {

struct Finished {
  int status = -1;  // Exit status, or 128 + signal.
  std::string out;
  std::string err;
};

// The program is looked up in this process's PATH. Without `environment` it inherits this one's.
Finished RunProgram(const std::vector<std::string>& words,
                    const std::vector<std::string>& environment = {});

// A folder that goes when the scope ends; everybody may enter it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string ReadAll(const std::string& path);
void WriteAll(const std::string& path, const std::string& content);

}  // namespace sublet
