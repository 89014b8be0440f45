package profile_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/tsh/profile"
)

// locksProfile is a profile of the cluster in testdata, whose machine-locks.json has this content.
func locksProfile(t *testing.T, content string) *profile.Profile {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pin, err := identity.ParsePin(strings.TrimSpace(string(read("pin.txt"))))
	if err != nil {
		t.Fatal(err)
	}
	var chain []rules.Signed
	if err := json.Unmarshal(read("authorities.json"), &chain); err != nil {
		t.Fatal(err)
	}
	cluster, authorities, err := rules.OpenAuthorities(pin, chain)
	if err != nil {
		t.Fatal(err)
	}
	p := &profile.Profile{
		Info:        profile.Info{Cluster: cluster, Pin: pin},
		Home:        profile.Home(t.TempDir()),
		Authorities: authorities,
	}
	if err := os.MkdirAll(p.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if content == "" {
		content = string(read("machine-locks.json"))
	}
	if err := os.WriteFile(p.Path("machine-locks.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// lockedInTestdata is the machine that is locked in testdata/machine-locks.json.
const lockedInTestdata = identity.MachineID("0123456789abcdef0123456789abcdef")

// Locks are read as they were written, and also with a field of a newer tsh.
func TestMachineLocksAreRead(t *testing.T) {
	t.Parallel()
	written := locksProfile(t, "")
	b, err := os.ReadFile(written.Path("machine-locks.json"))
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(b), "{", `{"later":{"is":"ignored"},`, 1)
	for name, p := range map[string]*profile.Profile{"as written": written, "later": locksProfile(t, later)} {
		locks, err := p.MachineLocks()
		lock, denied := locks.Denied(lockedInTestdata, time.Now())
		if err != nil || !denied || lock.Message != "the machine was stolen" {
			t.Errorf("%s: got %+v, %v (%v), want the lock", name, lock, denied, err)
		}
		if err := p.SaveMachineLocks(locks); err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(p.Path("machine-locks.json"))
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: got %s (%v) written, want %s", name, again, err, b)
		}
	}
}

// Without the file there are no locks. Locks of a newer tsh, and those that the cluster did not sign, are an
// error, and none are in force.
func TestMachineLocksThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	p := locksProfile(t, "")
	b, err := os.ReadFile(p.Path("machine-locks.json"))
	if err != nil {
		t.Fatal(err)
	}
	golden := string(b)
	for name, content := range map[string]string{
		"a newer version":           strings.Replace(golden, `"v":1`, `"v":2`, 1),
		"an unknown critical field": strings.Replace(golden, "{", `{"critical":["later"],"later":1,`, 1),
	} {
		locks, err := locksProfile(t, content).MachineLocks()
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" || !locks.Empty() {
			t.Errorf("%s: got %v, want a fault that says to update", name, err)
		}
	}
	p.Authorities = rules.ParsedAuthorities{}
	if locks, err := p.MachineLocks(); err == nil || !locks.Empty() {
		t.Errorf("got the locks of another cluster (%v), want an error", err)
	}
	if err := os.Remove(p.Path("machine-locks.json")); err != nil {
		t.Fatal(err)
	}
	locks, err := p.MachineLocks()
	if err != nil || !locks.Empty() || locks.Revision() != (rules.Revision{}) {
		t.Errorf("got %+v (%v) without the file, want no locks", locks, err)
	}
}
