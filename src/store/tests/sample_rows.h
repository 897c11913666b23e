// store/tests/sample_rows.h
//
// Rows to store, a folder to store them in, and a record as a text that can be compared.
//
// Thread safety: none needed.
#pragma once

#include <functional>
#include <string>

#include "store/node_record.h"
#include "store/node_store.h"

namespace sublet::store {

class ScratchFolder {
 public:
  ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder();

  const std::string& path() const { return path_; }
  std::string state() const { return path_ + "/state"; }
  std::string database() const { return state() + "/node.db"; }

 private:
  std::string path_;
};

// "s7", with all fields set to values that follow from the number.
ShareRow SampleShare(int number);
DomainRow SampleDomain(const std::string& name);
MigInstanceRow SampleMigInstance(const std::string& gpu_uuid, int start);
OperationRow SampleOperation(const std::string& id);
NodeEvent SampleEvent(const std::string& message);

// One line a row. Two records have the same text exactly if they are the same.
std::string TextOf(const NodeRecord& record);
std::string TextOf(const ShareRow& row);
std::string TextOf(const NodeEvent& event);

// Opens the store, reads all of it, events too, and closes it: "ok\n" and the text, or the error's
// code and message.
std::string TextOfStore(const std::string& directory);

// Runs `work` in a child process, and returns how that ended, as waitpid() has it. The child ends
// with status 0 where `work` returns true, 1 otherwise.
int InChild(const std::function<bool()>& work);

}  // namespace sublet::store
