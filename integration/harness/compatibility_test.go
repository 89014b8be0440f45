package harness_test

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// The page has a mark only for a feature that a test has shown, and pages that differ only in versions are
// the same.
func TestPageListsOnlyWhatClientsShowed(t *testing.T) {
	report := &harness.CompatibilityReport{}
	client := report.AddClient(t, "some client", "echo", "version 1.2.3-beta")
	if report.Complete() {
		t.Error("got a complete report before the client's test")
	}
	client.MarkStarted()
	client.Supports(t, "runs a command", func(*testing.T) {}, harness.Exec)
	client.Lacks(t, "is refused", func(*testing.T) {}, harness.Certificate)
	page := string(report.Page("intro\n"))
	for _, want := range []string{
		"intro\n",
		"| some client 1.2 | no | yes |  |",
		"- runs a command\n- is refused\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("got %q, want %q in it", page, want)
		}
	}
	if !report.Complete() {
		t.Error("got an incomplete report after the client's test")
	}
	if !harness.SamePage([]byte(page), []byte(strings.ReplaceAll(page, "1.2", "1.10.4"))) {
		t.Error("got pages that differ only in a version taken for different")
	}
	if harness.SamePage([]byte(page), []byte(strings.Replace(page, "yes", "no", 1))) {
		t.Error("got pages that differ in a field taken for the same")
	}
}
