package rulesfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/rulesfile"
)

var discard = slog.New(slog.DiscardHandler)

func open(t *testing.T, cluster *clustertest.Cluster, s rules.Set) *rules.Trust {
	t.Helper()
	trust, err := rules.Open(cluster.Pin(), s)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func TestRulesSurviveARestart(t *testing.T) {
	t.Parallel()
	cluster, path := clustertest.NewInMemory(t), filepath.Join(t.TempDir(), "rules.json")
	cluster.SetRoles(access.Role{Name: "ops"})
	if _, err := rulesfile.New(path, discard).Load(cluster.Pin()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first Save: got %v, want fs.ErrNotExist", err)
	}
	want := open(t, cluster, cluster.SignRules())
	rulesfile.New(path, discard).Save(want)
	got, err := rulesfile.New(path, discard).Load(cluster.Pin())
	if err != nil || !got.Head.Time.Equal(want.Head.Time) {
		t.Fatalf("got %v, want the rules that were saved", err)
	}
	if _, err := rulesfile.New(path, discard).Load(clustertest.NewInMemory(t).Pin()); err == nil {
		t.Error("the pin of another cluster: got the rules, want them refused")
	}
}

// A changed document is saved at once, and a new head alone only when the saved one is older by saveEvery.
func TestOnlyWhatIsWorthAWriteIsWritten(t *testing.T) {
	t.Parallel()
	cluster, path := clustertest.NewInMemory(t), filepath.Join(t.TempDir(), "rules.json")
	start := cluster.Now()
	file := rulesfile.New(path, discard)
	file.Save(open(t, cluster, cluster.SignRulesAt(start)))
	saved := func() time.Time {
		t.Helper()
		trust, err := rulesfile.New(path, discard).Load(cluster.Pin())
		if err != nil {
			t.Fatal(err)
		}
		return trust.Head.Time
	}
	file.Save(open(t, cluster, cluster.SignRulesAt(start.Add(10*time.Second))))
	if got := saved(); !got.Equal(start) {
		t.Errorf("a newer head alone: the file has the head of %s, want the first", got)
	}
	late := start.Add(11 * time.Minute)
	file.Save(open(t, cluster, cluster.SignRulesAt(late)))
	if got := saved(); !got.Equal(late) {
		t.Errorf("after 11 minutes: the file has the head of %s, want %s", got, late)
	}
	file.Save(open(t, cluster, cluster.SignRulesAt(start)))
	if got := saved(); !got.Equal(start) {
		t.Errorf("the clock of auth was set back: the file has the head of %s, want %s", got, start)
	}
	cluster.SetRoles(access.Role{Name: "ops"})
	changed := late.Add(time.Second)
	file.Save(open(t, cluster, cluster.SignRulesAt(changed)))
	if got := saved(); !got.Equal(changed) {
		t.Errorf("a changed document: the file has the head of %s, want %s", got, changed)
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	t.Parallel()
	cluster, path := clustertest.NewInMemory(t), filepath.Join(t.TempDir(), "rules.json")
	for name, b := range map[string][]byte{
		"empty":     nil,
		"not JSON":  []byte("{"),
		"too large": bytes.Repeat([]byte("x"), rules.MaxSetBytes+1),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if trust, err := rulesfile.New(path, discard).Load(cluster.Pin()); err == nil {
			t.Errorf("%s: got rules of %s, want an error", name, trust.Cluster)
		}
	}
}

func TestADiskThatTakesNothingIsLogged(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewInMemory(t)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	file := rulesfile.New(filepath.Join(t.TempDir(), "missing", "rules.json"), log)
	file.Save(open(t, cluster, cluster.SignRules()))
	if !strings.Contains(out.String(), "the rules could not be saved") {
		t.Errorf("got log %q, want a warning", out.String())
	}
}
