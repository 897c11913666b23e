# sublet_solver: COIN-OR's linear and integer solvers, for the planner.
#
# Statically where the system has them so, as Debian does. Shared, they and the libraries below them
# take 1.8 of the 3.9 ms that any start of `sublet` takes, for their symbols to be found: also that
# of `sublet run`, which never plans. Their LAPACK is Fortran; src/plan/master.cc says what happens
# on its errors, so that nothing of Fortran's own library is needed.

pkg_check_modules(CBC REQUIRED IMPORTED_TARGET cbc)
pkg_check_modules(CLP REQUIRED IMPORTED_TARGET clp)

add_library(sublet_solver INTERFACE)

# Each needs those behind it.
set(solver_archives "")
foreach(name Cbc Cgl OsiClp Clp Osi CoinUtils lapack blas)
  find_library(SUBLET_ARCHIVE_${name} lib${name}.a HINTS ${CBC_LIBDIR} ${CLP_LIBDIR})
  mark_as_advanced(SUBLET_ARCHIVE_${name})
  list(APPEND solver_archives ${SUBLET_ARCHIVE_${name}})
endforeach()
find_package(ZLIB)
find_package(BZip2)

if(solver_archives MATCHES "NOTFOUND" OR NOT ZLIB_FOUND OR NOT BZIP2_FOUND)
  target_link_libraries(sublet_solver INTERFACE PkgConfig::CBC PkgConfig::CLP)
else()
  target_include_directories(sublet_solver SYSTEM INTERFACE ${CBC_INCLUDE_DIRS}
                             ${CLP_INCLUDE_DIRS})
  target_link_libraries(sublet_solver INTERFACE ${solver_archives} BZip2::BZip2 ZLIB::ZLIB
                        ${CMAKE_DL_LIBS} m)
endif()
