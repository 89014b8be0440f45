package access

// Glob reports whether s matches the pattern, in which "*" stands for any run of bytes and "?" for any one
// byte. Connectors map claims to roles with it, so that wildcards mean the same in every document.
func Glob(pattern, s string) bool { return glob(pattern, s) }
