package totp

import (
	"encoding/base32"
	"testing"
	"time"
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
		step, ok := matchStep(secret, want, time.Unix(at, 0))
		if !ok || step != at/30 {
			t.Errorf("at %d: got step %d and %v, want %d", at, step, ok, at/30)
		}
		if _, ok := matchStep(secret, want, time.Unix(at+90, 0)); ok {
			t.Errorf("at %d: got the code accepted three steps later", at)
		}
	}
}
