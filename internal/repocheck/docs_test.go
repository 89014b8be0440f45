package repocheck_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testReference is how docs/threat-model.md names a test: its folder and its function.
var testReference = regexp.MustCompile("`([a-z][a-z0-9/]*): ((?:Test|Fuzz)[A-Za-z0-9_]+)`")

func TestTheThreatModelNamesRealTests(t *testing.T) {
	t.Parallel()
	doc := read(t, "docs/threat-model.md")
	named := testReference.FindAllStringSubmatch(doc, -1)
	if len(named) == 0 {
		t.Fatal("got no test named, want many")
	}
	for _, m := range named {
		if !slices.ContainsFunc(listFiles(t), func(f string) bool {
			return path.Dir(f) == m[1] && strings.HasSuffix(f, "_test.go") &&
				strings.Contains(read(t, f), "func "+m[2]+"(")
		}) {
			t.Errorf("docs/threat-model.md names %s in %s, which is no test", m[2], m[1])
		}
	}
}

// link is a link in a document to another file of the repository.
var link = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)

func TestLinksInDocumentsAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range listFiles(t) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(read(t, name), -1) {
			if _, err := os.Stat(filepath.Join(root, path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

// folder is how docs/architecture.md names a folder or a file of the tree.
var folder = regexp.MustCompile("`((?:auth|ca|raftstore|proxy|node|tsh|internal)(?:/[a-z]+)*(?:\\.go)?)`")

func TestTheArchitectureNamesRealPlaces(t *testing.T) {
	t.Parallel()
	doc := read(t, "docs/architecture.md")
	named := folder.FindAllStringSubmatch(doc, -1)
	if len(named) == 0 {
		t.Fatal("got no folder named, want many")
	}
	for _, m := range named {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("docs/architecture.md names %s: %v", m[1], err)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// quoted is a text in quotes.
var quoted = regexp.MustCompile(`"([^"\n]+)"`)

// joined is where a long literal is split over lines.
var joined = regexp.MustCompile(`"\s*\+\s*"`)

// An operator searches the runbook for the message in the log.
func TestTheRunbookQuotesRealMessages(t *testing.T) {
	var source strings.Builder
	for _, name := range listFiles(t) {
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			source.WriteString(joined.ReplaceAllString(read(t, name), ""))
		}
	}
	messages := quoted.FindAllStringSubmatch(read(t, "docs/runbook.md"), -1)
	if len(messages) < 10 {
		t.Fatalf("got %d messages in quotes, want many", len(messages))
	}
	for _, m := range messages {
		if !strings.Contains(source.String(), m[1]) {
			t.Errorf("docs/runbook.md quotes %q, which no program says", m[1])
		}
	}
}
