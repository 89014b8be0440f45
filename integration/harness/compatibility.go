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

// CompatibilityReport collects which features of each SSH client the tests have shown to work, and writes
// docs/compatibility.md.
type CompatibilityReport struct{ clients []*ClientReport }

// ClientReport is what the tests have shown of one client.
type ClientReport struct {
	name, version string

	mu      sync.Mutex         // guards the next fields
	started bool               // the client's test runs or has run
	results []string           // the subtests that passed: "runs a command"
	notes   []string           // paragraphs
	marks   map[Feature]string // "yes" or "no"; a missing one is an empty cell
}

// AddClient adds a client, and returns its report, to which the client's test adds results. It runs
// versionCommand and takes the first version number that it prints; if there is none, the test fails. Without
// versionCommand the client is part of this release, and the page shows no version.
func (r *CompatibilityReport) AddClient(t testing.TB, name string, versionCommand ...string) *ClientReport {
	t.Helper()
	version := ""
	if len(versionCommand) > 0 {
		// The error is ignored: some programs print their version and exit with status 1.
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

// Supports runs test as the subtest what. If it passes, the page says that the client has the features.
func (c *ClientReport) Supports(t *testing.T, what string, test func(*testing.T), features ...Feature) {
	t.Helper()
	c.run(t, what, test, "yes", features)
}

// Lacks runs test as the subtest what, which shows that the client is refused with a helpful error. If it
// passes, the page says that the client does not have the features.
func (c *ClientReport) Lacks(t *testing.T, what string, test func(*testing.T), features ...Feature) {
	t.Helper()
	c.run(t, what, test, "no", features)
}

// AddNote adds a paragraph that no test shows.
func (c *ClientReport) AddNote(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, text)
}

// run runs test as the subtest what. If it passes, run adds what to the results and the mark to the features.
func (c *ClientReport) run(
	t *testing.T,
	what string,
	test func(*testing.T),
	mark string,
	features []Feature,
) {
	t.Helper()
	t.Run(what, func(t *testing.T) {
		test(t)
		if t.Failed() {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.results = append(c.results, what)
		for _, feature := range features {
			c.marks[feature] = mark
		}
	})
}

// MarkStarted records that the client's test runs. The test calls it first.
func (c *ClientReport) MarkStarted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
}

// Complete reports whether the tests of all clients have run. Only then the page is compared or written: with
// go test -run the results of other clients are missing.
func (r *CompatibilityReport) Complete() bool {
	return !slices.ContainsFunc(r.clients, func(c *ClientReport) bool { return !c.started })
}

// Page returns docs/compatibility.md: the introduction, a table with a row for each client and a column for
// each feature, and a section for each client with its results and notes.
func (r *CompatibilityReport) Page(introduction string) []byte {
	var out bytes.Buffer
	out.WriteString(introduction)
	out.WriteString("\n| client |")
	for _, feature := range features {
		fmt.Fprintf(&out, " %s |", feature)
	}
	out.WriteString("\n|---|" + strings.Repeat("---|", len(features)) + "\n")
	for _, client := range r.clients {
		fmt.Fprintf(&out, "| %s |", strings.TrimSpace(client.name+" "+client.version))
		for _, feature := range features {
			fmt.Fprintf(&out, " %s |", client.marks[feature])
		}
		out.WriteString("\n")
	}
	for _, client := range r.clients {
		fmt.Fprintf(&out, "\n## %s\n\n", client.name)
		for _, result := range client.results {
			fmt.Fprintf(&out, "- %s\n", result)
		}
		for _, note := range client.notes {
			fmt.Fprintf(&out, "\n%s\n", note)
		}
	}
	return out.Bytes()
}

// SamePage reports whether two pages are equal except for version numbers, which change with the updates of
// the machine.
func SamePage(a, b []byte) bool {
	versionNumber := regexp.MustCompile(`\d+(\.\d+)+`)
	withoutVersions := func(page []byte) []byte { return versionNumber.ReplaceAll(page, []byte("N")) }
	return bytes.Equal(withoutVersions(a), withoutVersions(b))
}
