package factor

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	var a addressLockout
	now := time.Unix(1_800_000_000, 0)
	for i := range maxAddresses + 500 {
		a.recordWrongAnswer(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(a.byNetwork) > maxAddresses {
		t.Errorf("got %d addresses, want at most %d", len(a.byNetwork), maxAddresses)
	}
}

// Many users may share one address. Their occasional mistakes are forgiven, but not the wrong answers of an
// attacker.
func TestOccasionalWrongAnswersOfAnAddressAreForgiven(t *testing.T) {
	t.Parallel()
	office := netip.MustParseAddr("192.0.2.7")
	for every, want := range map[time.Duration]bool{forgiveInterval: false, forgiveInterval / 2: true} {
		var a addressLockout
		locked, now := false, time.Unix(1_700_000_000, 0)
		for range 1000 {
			a.recordWrongAnswer(office, now)
			locked = locked || a.lockedFor(office, now) > 0
			now = now.Add(every)
		}
		if locked != want {
			t.Errorf("a wrong answer every %s: got locked %v, want %v", every, locked, want)
		}
	}
}

func TestFormatWait(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		time.Nanosecond:  "1s",
		30 * time.Second: "30s",
		59 * time.Second: "59s",
		time.Minute - 1:  "1m",
		time.Minute + 1:  "2m",
		59 * time.Minute: "59m",
		time.Hour - 1:    "1h",
		time.Hour:        "1h",
	} {
		if got := fault.FormatDuration(roundWait(d)); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}

func FuzzTypedCode(f *testing.F) {
	for _, s := range []string{"123456", " 123-456", "abcd-efgh-ijkl-mnop", "", "１２３"} {
		body, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"code":"123456"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		code := parseRecoveryCode(body)
		if code != "" && (len(code) != 16 || string(code) != TypedCode(body)) {
			t.Errorf("%q: got %q, want a recovery code or none", body, code)
		}
	})
}
