// inventory/tests/simulation.h
//
// A simulated node for the time of a test: sets the variables that sim/driver reads, with a state
// folder of its own, and takes them back.
//
//   const Simulation simulation("h100-80gb:2");
//   const Result<Inventory> node = simulation.Take();
#pragma once

#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "inventory/take.h"

namespace sublet {

class Simulation {
 public:
  explicit Simulation(const std::string& preset, std::map<std::string, std::string> more = {})
      : variables_(std::move(more)) {
    std::string path = std::filesystem::temp_directory_path() / "sublet-sim-XXXXXX";
    folder_ = ::mkdtemp(path.data());
    variables_["SUBLET_SIM"] = preset;
    variables_["SUBLET_SIM_STATE"] = folder_;
    for (const auto& [name, value] : variables_) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Simulation() {
    for (const auto& [name, value] : variables_) ::unsetenv(name.c_str());
    std::filesystem::remove_all(folder_);
  }
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  static std::string LibraryPath() { return SUBLET_BINARY_DIR "/lib/sublet-sim/libnvidia-ml.so.1"; }

  const std::string& folder() const { return folder_; }

  Result<Inventory> Take(std::chrono::milliseconds patience = std::chrono::seconds(60)) const {
    return TakeInventory({.nvml_path = LibraryPath(), .patience = patience},
                         [](const char*) -> std::optional<std::string> { return std::nullopt; });
  }

 private:
  std::map<std::string, std::string> variables_;
  std::string folder_;
};

}  // namespace sublet
