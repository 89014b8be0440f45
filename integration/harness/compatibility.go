package harness

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Feature is a column of the page about compatibility.
type Feature string

// Features in the order of their columns.
const (
	Certificate Feature = "certificate"
	Exec        Feature = "command"
	Shell       Feature = "shell, terminal"
	SFTP        Feature = "sftp"
	SCP         Feature = "scp"
	Local       Feature = "`-L`"
	Remote      Feature = "`-R`"
	Dynamic     Feature = "`-D`"
	Sockets     Feature = "Unix sockets"
	Agent       Feature = "agent"
	Shared      Feature = "many channels"
	ByCommand   Feature = "by `tsh proxy ssh`"
	ByJump      Feature = "by jump"
)

var features = []Feature{
	Certificate,
	Exec,
	Shell,
	SFTP,
	SCP,
	Local,
	Remote,
	Dynamic,
	Sockets,
	Agent,
	Shared,
	ByCommand,
	ByJump,
}

// CompatibilityReport gathers what clients proved, one entry for each.
type CompatibilityReport struct{ entries []*ClientReport }

// ClientReport is what one client proved.
type ClientReport struct {
	name, version string

	mu      sync.Mutex // guards what follows
	started bool
	proved  []string
	notes   []string
	marks   map[Feature]string
}

// AddClient adds an entry for a client. What prints its version is run; without it, the client is of this
// release.
func (b *CompatibilityReport) AddClient(t testing.TB, name string, prints ...string) *ClientReport {
	t.Helper()
	version := ""
	if len(prints) > 0 {
		out, _ := exec.Command(prints[0], prints[1:]...).CombinedOutput() // some end with 1
		if version = versionRE.FindString(string(out)); version == "" {
			t.Fatalf("%s: %v printed %q, which tells no version", name, prints, out)
		}
	}
	e := &ClientReport{name: name, version: version, marks: map[Feature]string{}}
	b.entries = append(b.entries, e)
	return e
}

var versionRE = regexp.MustCompile(`\d+\.\d+`)

// Supports runs a test of the story and, if it passes, writes down what it proved.
func (e *ClientReport) Supports(t *testing.T, what string, prove func(*testing.T), shows ...Feature) {
	t.Helper()
	e.run(t, what, prove, "yes", shows)
}

// Lacks runs a test that shows how the client is turned away for what it lacks.
func (e *ClientReport) Lacks(t *testing.T, what string, prove func(*testing.T), shows ...Feature) {
	t.Helper()
	e.run(t, what, prove, "no", shows)
}

// AddNote writes down what people should know and no test needs to show.
func (e *ClientReport) AddNote(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, text)
}

func (e *ClientReport) run(t *testing.T, what string, prove func(*testing.T), mark string, shows []Feature) {
	t.Helper()
	t.Run(what, func(t *testing.T) {
		prove(t)
		if t.Failed() {
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.proved = append(e.proved, what)
		for _, f := range shows {
			e.marks[f] = mark
		}
	})
}

// MarkStarted says that the client's story runs, and Complete whether all of them did.
func (e *ClientReport) MarkStarted() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = true
}

// Complete reports whether every client's story ran: a part of them makes no page.
func (b *CompatibilityReport) Complete() bool {
	return !slices.ContainsFunc(b.entries, func(e *ClientReport) bool { return !e.started })
}

// Page writes the page, which begins with the introduction.
func (b *CompatibilityReport) Page(introduction string) []byte {
	var out bytes.Buffer
	out.WriteString(introduction)
	out.WriteString("\n| client |")
	for _, f := range features {
		fmt.Fprintf(&out, " %s |", f)
	}
	out.WriteString("\n|---|" + strings.Repeat("---|", len(features)) + "\n")
	for _, e := range b.entries {
		fmt.Fprintf(&out, "| %s |", strings.TrimSpace(e.name+" "+e.version))
		for _, f := range features {
			fmt.Fprintf(&out, " %s |", e.marks[f])
		}
		out.WriteString("\n")
	}
	for _, e := range b.entries {
		fmt.Fprintf(&out, "\n## %s\n\n", e.name)
		for _, what := range e.proved {
			fmt.Fprintf(&out, "- %s\n", what)
		}
		for _, note := range e.notes {
			fmt.Fprintf(&out, "\n%s\n", note)
		}
	}
	return out.Bytes()
}

// SamePage compares two pages, whatever versions they name: those are the machine's, and change with its
// updates.
func SamePage(a, b []byte) bool {
	plain := func(p []byte) []byte { return regexp.MustCompile(`\d+(\.\d+)+`).ReplaceAll(p, []byte("N")) }
	return bytes.Equal(plain(a), plain(b))
}
