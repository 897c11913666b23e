# The two steps by which web/CMakeLists.txt makes the pages, run as `cmake -P` at build time.
#
#   NPM     the npm program
#   SOURCE  web/ of the source tree
#   APP     its copy in the build tree
#   STEP    packages: installs what package-lock.json names;  page: checks the types and builds
#
# npm's output appears only when it fails.

function(run_npm hint)
  execute_process(COMMAND ${NPM} ${ARGN} WORKING_DIRECTORY ${APP} RESULT_VARIABLE status
                  OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${output}\n`npm ${command}` failed in ${APP}.\n${hint}")
  endif()
endfunction()

if(STEP STREQUAL "packages")
  file(COPY ${SOURCE}/package.json ${SOURCE}/package-lock.json ${SOURCE}/.npmrc DESTINATION ${APP})
  run_npm("It downloads the packages that package-lock.json names, unless npm's cache has them: is \
there a network, and does npm know the way (npm config get registry, proxy, https-proxy)?"
          ci --prefer-offline --no-progress)
  file(TOUCH ${APP}/packages.stamp)
elseif(STEP STREQUAL "page")
  # A fresh copy, so that a file which is gone from the sources is gone here too.
  file(REMOVE_RECURSE ${APP}/src ${APP}/tests ${APP}/dist)
  file(COPY ${SOURCE}/src ${SOURCE}/tests ${SOURCE}/plan.html ${SOURCE}/measure.html
            ${SOURCE}/tsconfig.json
            ${SOURCE}/vite.config.ts ${SOURCE}/single_file.ts DESTINATION ${APP})
  run_npm("The page's sources are in ${SOURCE}." run build)
else()
  message(FATAL_ERROR "unknown STEP: ${STEP}")
endif()
