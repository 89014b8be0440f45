// Package repocheck answers: is the house still built as its plan says?
//
// It has only tests. They ask go list which package imports which, and hold every edge against the tables in
// imports_test.go: imports point down, never back or sideways, and rooms never import their root. They also
// refuse names that say nothing, sleeping or skipped tests, and libraries that end the process. A new room
// gets its place in the tables in the commit that makes it.
package repocheck
