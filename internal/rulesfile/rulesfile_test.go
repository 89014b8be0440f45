package rulesfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

// inForce are rules that a test replaces.
type inForce struct {
	mu      sync.Mutex
	trust   *rules.Trust
	changed chan struct{}
}

func (r *inForce) Current() *rules.Trust    { r.mu.Lock(); defer r.mu.Unlock(); return r.trust }
func (r *inForce) Changed() <-chan struct{} { r.mu.Lock(); defer r.mu.Unlock(); return r.changed }

func (r *inForce) change(trust *rules.Trust) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trust = trust
	close(r.changed)
	r.changed = make(chan struct{})
}

// Many changes at once cost few writes, the last one is on disk a second later, and one that came just before
// the end of the program is on disk after it.
func TestChangesAreSavedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cluster, path := clustertest.NewInMemory(t), filepath.Join(t.TempDir(), "rules.json")
		trustOf := func(role string) *rules.Trust {
			cluster.SetRoles(access.Role{Name: role})
			return open(t, cluster, cluster.SignRules())
		}
		has := func(role string) bool {
			t.Helper()
			trust, err := rulesfile.New(path, discard).Load(cluster.Pin())
			if err != nil {
				t.Fatal(err)
			}
			_, has := trust.Policy.Roles[role]
			return has
		}
		ctx, cancel := context.WithCancel(t.Context())
		current := &inForce{trust: trustOf("first"), changed: make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- rulesfile.New(path, discard).Run(ctx, current) }()
		synctest.Wait()
		if !has("first") {
			t.Error("the rules in force at the start are not on disk")
		}
		writes := 0
		for i := range 100 {
			current.change(trustOf(fmt.Sprintf("role-%d", i)))
			synctest.Wait()
			if has(fmt.Sprintf("role-%d", i)) {
				writes++
			}
			<-time.After(5 * time.Millisecond)
		}
		if writes > 1 {
			t.Errorf("got %d writes for 100 changes in half a second, want one at most", writes)
		}
		<-time.After(time.Second)
		synctest.Wait()
		if !has("role-99") {
			t.Error("the last change is not on disk after a second")
		}
		current.change(trustOf("last"))
		cancel()
		if err := <-done; err != nil || !has("last") {
			t.Errorf("got %v, want the last change on disk at the end", err)
		}
	})
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
