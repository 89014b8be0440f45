package totp

import (
	"encoding/base32"
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// The vectors are those of RFC 6238 appendix B for SHA-1: the last six of the eight digits.
func TestRFC6238Vectors(t *testing.T) {
	t.Parallel()
	secret := base32.StdEncoding.EncodeToString([]byte("12345678901234567890"))
	for at, want := range map[int64]string{
		59:          "287082",
		1111111109:  "081804",
		1111111111:  "050471",
		1234567890:  "005924",
		2000000000:  "279037",
		20000000000: "353130",
	} {
		step, ok := matchStep(secret, parsedCode{totp: want}, time.Unix(at, 0))
		if !ok || step != at/30 {
			t.Errorf("at %d: got step %d and %v, want %d", at, step, ok, at/30)
		}
		if _, ok := matchStep(secret, parsedCode{totp: want}, time.Unix(at+90, 0)); ok {
			t.Errorf("at %d: got the code accepted three steps later", at)
		}
	}
}

func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	var a addressLockout
	now := time.Unix(1_800_000_000, 0)
	for i := range maxAddresses + 500 {
		a.recordWrongCode(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), now)
	}
	if len(a.byNetwork) > maxAddresses {
		t.Errorf("got %d addresses, want at most %d", len(a.byNetwork), maxAddresses)
	}
}

func FuzzParseCode(f *testing.F) {
	for _, s := range []string{"123456", " 123-456", "abcd-efgh-ijkl-mnop", "", "１２３"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		c, err := parseCode(typed)
		if (err == nil) != (c.totp != "" || c.recovery != "") || c.totp != "" && c.recovery != "" {
			t.Errorf("%q: got %+v and %v, want one of the two or an error", typed, c, err)
		}
	})
}

// Many users may share one address. Their occasional mistakes are forgiven, but not the wrong codes of an
// attacker.
func TestOccasionalWrongCodesOfAnAddressAreForgiven(t *testing.T) {
	t.Parallel()
	for every, want := range map[time.Duration]bool{forgiveInterval: false, forgiveInterval / 2: true} {
		var a addressLockout
		locked, now := false, time.Unix(1_700_000_000, 0)
		for range 1000 {
			a.recordWrongCode("192.0.2.7", now)
			locked = locked || a.lockedFor("192.0.2.7", now) > 0
			now = now.Add(every)
		}
		if locked != want {
			t.Errorf("a wrong code every %s: got locked %v, want %v", every, locked, want)
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
