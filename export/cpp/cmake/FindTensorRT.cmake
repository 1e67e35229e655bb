# TensorRT 10 or 11 with its ONNX parser, and the CUDA runtime, as TensorRT::TensorRT: from TensorRT_ROOT, or where
# JetPack and NVIDIA's Debian packages put them. Headers alone are enough to compile; programs are linked where the
# libraries are found too (TensorRT_LINKS).
set(TensorRT_folders include include/x86_64-linux-gnu include/aarch64-linux-gnu)
find_path(TensorRT_INCLUDE_DIR NvInfer.h PATH_SUFFIXES ${TensorRT_folders})
find_path(TensorRT_PARSER_INCLUDE_DIR NvOnnxParser.h HINTS ${TensorRT_INCLUDE_DIR} PATH_SUFFIXES ${TensorRT_folders})
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${TensorRT_INCLUDE_DIR} ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda
  PATH_SUFFIXES include targets/x86_64-linux/include targets/aarch64-linux/include targets/sbsa-linux/include)
set(TensorRT_LIBRARIES "")
set(TensorRT_LINKS TRUE)
foreach(name nvinfer nvonnxparser cudart)
  find_library(TensorRT_${name}_LIBRARY ${name}
    HINTS ENV CUDA_HOME ENV CUDA_PATH
    PATHS /usr/local/cuda
    PATH_SUFFIXES lib lib64 targets/x86_64-linux/lib targets/aarch64-linux/lib targets/sbsa-linux/lib)
  mark_as_advanced(TensorRT_${name}_LIBRARY)
  if(TensorRT_${name}_LIBRARY)
    list(APPEND TensorRT_LIBRARIES ${TensorRT_${name}_LIBRARY})
  else()
    set(TensorRT_LINKS FALSE)
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR TensorRT_PARSER_INCLUDE_DIR TensorRT_CUDA_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "set TensorRT_ROOT to the folder that holds TensorRT's include/ and lib/ (a Jetson's JetPack has them)")

if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT INTERFACE IMPORTED)
  set(TensorRT_folders ${TensorRT_INCLUDE_DIR} ${TensorRT_PARSER_INCLUDE_DIR} ${TensorRT_CUDA_INCLUDE_DIR})
  list(REMOVE_DUPLICATES TensorRT_folders)
  set_target_properties(TensorRT::TensorRT PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_folders}"
    INTERFACE_LINK_LIBRARIES "${TensorRT_LIBRARIES}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_PARSER_INCLUDE_DIR TensorRT_CUDA_INCLUDE_DIR)
