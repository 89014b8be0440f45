package harness_test

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

func TestPageListsOnlyWhatClientsShowed(t *testing.T) {
	book := &harness.CompatibilityReport{}
	e := book.AddClient(t, "some client", "echo", "version 1.2.3-beta")
	if book.Complete() {
		t.Error("got a complete book before the story began")
	}
	e.MarkStarted()
	e.Supports(t, "runs a command", func(*testing.T) {}, harness.Exec)
	e.Lacks(t, "is refused", func(*testing.T) {}, harness.Certificate)
	page := string(book.Page("intro\n"))
	for _, want := range []string{"intro\n", "| some client 1.2 | no | yes |  |", "- runs a command\n- is refused\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("got %q, want %q in it", page, want)
		}
	}
	if !book.Complete() ||
		!harness.SamePage([]byte(page), []byte(strings.ReplaceAll(page, "1.2", "1.10.4"))) {
		t.Error("got pages apart that differ by a version alone")
	}
	if harness.SamePage([]byte(page), []byte(strings.Replace(page, "yes", "no", 1))) {
		t.Error("got a changed field taken for the same")
	}
}
