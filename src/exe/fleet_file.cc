#include "exe/fleet_file.h"

#include <filesystem>
#include <utility>

#include "base/files.h"
#include "model/document.h"

namespace sublet {
namespace {

Result<BoardCatalogue> CatalogueFrom(const std::string& path) {
  if (path.empty()) return BuiltInBoards();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDocumentBytesMax));
  ASSIGN_OR_RETURN(const BoardCatalogue own, ParseBoards(text, path));
  return MergeBoards(BuiltInBoards(), own);
}

Result<Calibration> CalibrationFrom(const std::string& path) {
  if (path.empty()) return DefaultCalibration();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDocumentBytesMax));
  return ParseCalibration(text, path);
}

FileLoader LoaderBeside(const std::string& fleet) {
  const std::filesystem::path folder =
      fleet == "-" ? std::filesystem::path() : std::filesystem::path(fleet).parent_path();
  return [folder](const std::string& path) {
    return ReadFile((folder / path).string(), kDocumentBytesMax);
  };
}

}  // namespace

PlanRequest PlanInputs::Request() const {
  PlanRequest request;
  request.fleet = fleet;
  request.catalogue = &catalogue;
  request.calibration = &calibration;
  return request;
}

Result<PlanInputs> ParsePlanInputs(const std::string& fleet_text, const PlanFiles& files) {
  PlanInputs inputs;
  ASSIGN_OR_RETURN(inputs.fleet, ParseFleet(fleet_text, files.fleet, LoaderBeside(files.fleet)));
  ASSIGN_OR_RETURN(inputs.catalogue, CatalogueFrom(files.boards));
  ASSIGN_OR_RETURN(inputs.calibration, CalibrationFrom(files.calibration));
  return inputs;
}

Result<PlanInputs> ReadPlanInputs(const PlanFiles& files) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(files.fleet, kDocumentBytesMax));
  return ParsePlanInputs(text, files);
}

}  // namespace sublet
