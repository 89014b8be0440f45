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

// Feature is a column of docs/compatibility.md.
type Feature string

// Features. Their texts are the heads of the columns.
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

// features are the columns, in order.
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

// CompatibilityReport collects what the tests have shown of each client, and makes docs/compatibility.md of
// it.
type CompatibilityReport struct{ clients []*ClientReport }

// ClientReport is what the tests have shown of one client.
type ClientReport struct {
	name, version string

	mu      sync.Mutex // guards what follows
	started bool       // the client's test runs or has run
	results []string   // the tests that passed
	notes   []string
	marks   map[Feature]string // "yes" or "no"
}

// AddClient adds a client. versionCommand is run and prints its version; without it, the client is part of
// this release.
func (r *CompatibilityReport) AddClient(t testing.TB, name string, versionCommand ...string) *ClientReport {
	t.Helper()
	version := ""
	if len(versionCommand) > 0 {
		// The exit status of some programs is 1.
		out, _ := exec.Command(versionCommand[0], versionCommand[1:]...).CombinedOutput()
		if version = versionRE.FindString(string(out)); version == "" {
			t.Fatalf("%s: %v printed %q, which has no version", name, versionCommand, out)
		}
	}
	c := &ClientReport{name: name, version: version, marks: map[Feature]string{}}
	r.clients = append(r.clients, c)
	return c
}

var versionRE = regexp.MustCompile(`\d+\.\d+`)

// Supports runs a test. If it passes, the client has the features.
func (c *ClientReport) Supports(t *testing.T, what string, test func(*testing.T), shows ...Feature) {
	t.Helper()
	c.run(t, what, test, "yes", shows)
}

// Lacks runs a test. If it passes, the client does not have the features, and is refused with a helpful
// error.
func (c *ClientReport) Lacks(t *testing.T, what string, test func(*testing.T), shows ...Feature) {
	t.Helper()
	c.run(t, what, test, "no", shows)
}

// AddNote adds a paragraph that no test shows.
func (c *ClientReport) AddNote(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, text)
}

func (c *ClientReport) run(t *testing.T, what string, test func(*testing.T), mark string, shows []Feature) {
	t.Helper()
	t.Run(what, func(t *testing.T) {
		test(t)
		if t.Failed() {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.results = append(c.results, what)
		for _, f := range shows {
			c.marks[f] = mark
		}
	})
}

// MarkStarted records that the client's test runs.
func (c *ClientReport) MarkStarted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
}

// Complete reports whether the tests of all clients ran. Without some of them there is no page.
func (r *CompatibilityReport) Complete() bool {
	return !slices.ContainsFunc(r.clients, func(c *ClientReport) bool { return !c.started })
}

// Page returns the page: the introduction, the table of features, and a section for each client.
func (r *CompatibilityReport) Page(introduction string) []byte {
	var out bytes.Buffer
	out.WriteString(introduction)
	out.WriteString("\n| client |")
	for _, f := range features {
		fmt.Fprintf(&out, " %s |", f)
	}
	out.WriteString("\n|---|" + strings.Repeat("---|", len(features)) + "\n")
	for _, c := range r.clients {
		fmt.Fprintf(&out, "| %s |", strings.TrimSpace(c.name+" "+c.version))
		for _, f := range features {
			fmt.Fprintf(&out, " %s |", c.marks[f])
		}
		out.WriteString("\n")
	}
	for _, c := range r.clients {
		fmt.Fprintf(&out, "\n## %s\n\n", c.name)
		for _, what := range c.results {
			fmt.Fprintf(&out, "- %s\n", what)
		}
		for _, note := range c.notes {
			fmt.Fprintf(&out, "\n%s\n", note)
		}
	}
	return out.Bytes()
}

// SamePage reports whether two pages are equal except for version numbers, which change with the updates of
// the machine.
func SamePage(a, b []byte) bool {
	plain := func(p []byte) []byte { return regexp.MustCompile(`\d+(\.\d+)+`).ReplaceAll(p, []byte("N")) }
	return bytes.Equal(plain(a), plain(b))
}
