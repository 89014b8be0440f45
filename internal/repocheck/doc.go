// Package repocheck answers: is the repository still built as its rules say?
//
// It has only tests. They ask go list which package imports which, and check every import against the tables
// in imports_test.go: imports point from a higher layer to a lower one, never back or sideways, and a package
// inside a component never imports the component's root. The tests also refuse names that say nothing, words
// that are no terms of the field, sleeping or skipped tests, libraries that end the process, and long lines.
// A new package gets its row in the tables in the commit that adds it.
package repocheck
