// render/output_folder.h
//
// Puts a rendering into a folder, whole or not at all.
//
// Everything is first written into a folder beside the targets, so that a full disk or a missing
// permission shows before anything is replaced; then each file is renamed into place. Files that
// the same target left there earlier and that the plan no longer has are removed;
// `.sublet-render-TARGET` lists what was written, for that purpose.
//
//   ASSIGN_OR_RETURN(const Rendering out, Render(plan, target, {}));
//   RETURN_IF_ERROR(WriteRendering(out, target, "out", {}));
//
// Thread safety: no shared state; two writers into one folder each write whole files.
#pragma once

#include <string>

#include "base/result.h"
#include "render/render.h"

namespace sublet {

struct WriteOptions {
  bool force = false;  // Replace files that somebody else wrote.
};

// Creates the folder and those above it. Fails with kConflict where a file of that name exists that
// this target didn't write (its first lines don't say so), kPermission or kIo; before the first
// rename everything is as it was.
Status WriteRendering(const Rendering& rendering, Target target, const std::string& folder,
                      const WriteOptions& options);

}  // namespace sublet
