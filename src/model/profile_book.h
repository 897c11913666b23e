// model/profile_book.h
//
// The workload profiles that a fleet file names: "encoder.json", "h200.json#transformer".
//
// The book asks a loader for each file once, however many workloads name it, and keeps what it
// read. It opens no file itself: a codec must not decide where a relative path leads.
//
//   ProfileBook book(loader);
//   ASSIGN_OR_RETURN(WorkloadProfile profile, book.Open(node));   // node: the text in the fleet
//
// Thread safety: one thread at a time.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/result.h"
#include "model/document.h"
#include "model/workload_profile.h"

namespace sublet {

// The text of the file that a document names. What a relative path is relative to is the loader's
// business; `sublet plan` takes the folder of the fleet file.
using FileLoader = std::function<Result<std::string>(const std::string& path)>;

class ProfileBook {
 public:
  explicit ProfileBook(FileLoader loader) : loader_(std::move(loader)) {}

  // Errors have the place of `reference` in front, and the code that the loader gave.
  Result<WorkloadProfile> Open(const Node& reference);

 private:
  Result<WorkloadProfile> Load(const std::string& reference) const;

  FileLoader loader_;
  std::map<std::string, WorkloadProfile> known_;  // By the text that named them.
};

}  // namespace sublet
