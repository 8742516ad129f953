# Compile settings shared by every target, and the three helpers the sub-folders use.
add_library(quern_settings INTERFACE)
target_include_directories(quern_settings INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> ${PROJECT_SOURCE_DIR}/src)
target_compile_definitions(quern_settings INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64
  QN_VERSION="${PROJECT_VERSION}")
# -ffp-contract=off: the same arithmetic from every compiler; kernels that want FMA ask for it by name.
target_compile_options(quern_settings INTERFACE
  -fvisibility=hidden -ffp-contract=off -fno-math-errno
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wvla -Wstrict-prototypes
  -Wmissing-prototypes -Wold-style-definition -Wcast-qual -Wpointer-arith -Wundef -Wformat=2
  -Wdouble-promotion -Wwrite-strings
  $<$<BOOL:${QN_WERROR}>:-Werror>)
target_link_libraries(quern_settings INTERFACE OpenMP::OpenMP_C m)
if(QN_SANITIZE)
  target_compile_options(quern_settings INTERFACE -fsanitize=${QN_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(quern_settings INTERFACE -fsanitize=${QN_SANITIZE})
endif()
# What every test finds in its environment. LLVM's OpenMP runtime is not instrumented: its own locks, and the blocks that
# its threads hand to each other, look like races to the thread sanitizer. What such libraries do by themselves is left out;
# what Quern does in parallel regions is watched, with their forks, joins and barriers made known by libarcher, which the
# runtime loads by itself. The thread sanitizer marks read-only data by means of a file that it writes before the program
# starts, and crashes where the tests of a full disk limit the size of files; without a folder for it, it does without.
set(QN_TEST_ENVIRONMENT
  TSAN_OPTIONS=ignore_noninstrumented_modules=1
  TEST_TMPDIR=/dev/null
  LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0)

# quern_floor(NAME FLOORS a b LIBRARIES x y SOURCES one.c two.c): one floor as an object library.
function(quern_floor name)
  cmake_parse_arguments(F "" "" "FLOORS;LIBRARIES;SOURCES" ${ARGN})
  add_library(quern_${name} OBJECT ${F_SOURCES})
  set_target_properties(quern_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(quern_${name} PUBLIC quern_settings ${F_LIBRARIES})
  set_property(GLOBAL APPEND PROPERTY QUERN_FLOORS ${name})
  set_property(GLOBAL PROPERTY QUERN_FLOORS_BELOW_${name} ${F_FLOORS})
endfunction()

# Collects NAME and every floor below it.
function(quern_floor_closure name out)
  set(seen ${name})
  get_property(below GLOBAL PROPERTY QUERN_FLOORS_BELOW_${name})
  foreach(floor ${below})
    quern_floor_closure(${floor} more)
    list(APPEND seen ${more})
  endforeach()
  list(REMOVE_DUPLICATES seen)
  set(${out} ${seen} PARENT_SCOPE)
endfunction()

# libquern: all floors, shared and static, with the public headers only.
function(quern_library)
  get_property(floors GLOBAL PROPERTY QUERN_FLOORS)
  foreach(kind SHARED STATIC)
    string(TOLOWER ${kind} suffix)
    set(target quern_lib_${suffix})
    add_library(${target} ${kind})
    set_target_properties(${target} PROPERTIES OUTPUT_NAME quern
      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
    foreach(floor ${floors})
      target_link_libraries(${target} PRIVATE quern_${floor})
    endforeach()
    target_include_directories(${target} PUBLIC
      $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  endforeach()
  install(TARGETS quern_lib_shared quern_lib_static
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY include/quern DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  configure_file(cmake/quern.pc.in quern.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/quern.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()

# quern_unit_test(FLOOR test_name.c [more.c]): a cmocka program that links FLOOR and the floors below it only.
function(quern_unit_test floor source)
  get_filename_component(target ${source} NAME_WE)
  add_executable(${target} ${source} ${ARGN})
  quern_floor_closure(${floor} floors)
  foreach(f ${floors})
    target_link_libraries(${target} PRIVATE quern_${f})
  endforeach()
  target_link_libraries(${target} PRIVATE quern_test_support PkgConfig::CMOCKA)
  add_test(NAME ${floor}.${target} COMMAND ${target})
  set_tests_properties(${floor}.${target} PROPERTIES LABELS "unit;${floor}" SKIP_RETURN_CODE 77 TIMEOUT 600
    ENVIRONMENT "OMP_WAIT_POLICY=PASSIVE;${QN_TEST_ENVIRONMENT}")
endfunction()
