# cmake -DIN=file -DOUT=file.c -DNAME=symbol -P embed.cmake: a C array with the bytes of a file.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "#include \"artifact/plan.h\"\n\nconst unsigned char ${NAME}[] = {\n${bytes}\n};\nconst unsigned ${NAME}_bytes = sizeof ${NAME};\n")
