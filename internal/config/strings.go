package config

// Strings is one text or a list of texts: "env: prod" and "env: [staging, prod]" are both written often. It reads both and writes a
// list when it has more or less than one element.
type Strings []string
