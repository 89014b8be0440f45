// Package integration tests the real programs from outside, together with OpenSSH and a browser. Each file
// is a story of a user or an administrator. The tests have the build tag integration; make integration runs
// them.
package integration
