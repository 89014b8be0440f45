//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

const kills = 50

// The process of the cluster is killed again and again while administrators apply roles. Every role that was
// acknowledged is there afterwards.
func TestNoAcknowledgedWriteIsLostByKill9(t *testing.T) {
	t.Parallel()
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())

	acknowledged := map[string]bool{}
	for round := range kills {
		if round > 0 {
			d.Restart(t)
		}
		for _, name := range writeUntilKilled(t, d, c, round) {
			acknowledged[name] = true
		}
	}
	d.Restart(t)
	var roles []struct {
		Metadata struct{ Name string }
	}
	if err := json.Unmarshal([]byte(c.Tsh("get", "roles", "--format=json").OK(t)), &roles); err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	for _, r := range roles {
		kept[r.Metadata.Name] = true
	}
	for name := range acknowledged {
		if !kept[name] {
			t.Errorf("role %s was acknowledged and is gone", name)
		}
	}
	if len(acknowledged) < kills {
		t.Errorf("got %d acknowledged writes in %d rounds, want one per round", len(acknowledged), kills)
	}
	t.Logf("%d kills, %d acknowledged writes, none lost", kills, len(acknowledged))
}

// writeUntilKilled applies roles from two clients until it kills the process after a random time. It
// returns the names of the roles that were acknowledged.
func writeUntilKilled(t *testing.T, d *harness.Demo, c *harness.Client, round int) (names []string) {
	t.Helper()
	after := time.Duration(150+rand.IntN(500)) * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for side := range 2 {
		dir := t.TempDir()
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("r%d-%d-%d", round, side, i)
				file := filepath.Join(dir, "role.yaml")
				if err := os.WriteFile(file, []byte(emptyRole(name)), 0o600); err != nil {
					t.Error(err)
					return
				}
				if c.Tsh("apply", "-f", file).Code == 0 {
					mu.Lock()
					names = append(names, name)
					mu.Unlock()
				}
			}
		})
	}
	<-ctx.Done()
	d.Process.Kill()
	wg.Wait()
	return names
}
