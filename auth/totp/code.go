package totp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"regexp"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	maxInput      = 64 // bytes of what a user types
	recoveryCodeCount = 10 // how many a user gets
	recoveryBytes = 10 // random bytes in a recovery code: 80 bits, 16 letters
)

var (
	totpRE     = regexp.MustCompile(`^[0-9]{6}$`)
	recoveryRE = regexp.MustCompile(`^[A-Z2-7]{16}$`)
)

// parsedCode is what a user typed, in the form that is compared. One of the two fields is empty.
type parsedCode struct{ totp, recovery string }

// separators are what users type and apps show between the digits.
var separators = strings.NewReplacer(" ", "", "-", "", "\t", "", "\u00a0", "", "\r", "", "\n", "")

// parseCode removes separators. Text that has the form of no code is refused here: it is not a guess, so it
// does not count towards the lockout.
func parseCode(typed string) (parsedCode, error) {
	if len(typed) <= maxInput {
		s := strings.ToUpper(separators.Replace(typed))
		switch {
		case totpRE.MatchString(s):
			return parsedCode{totp: s}, nil
		case recoveryRE.MatchString(s):
			return parsedCode{recovery: s}, nil
		}
	}
	return parsedCode{}, fault.New(fault.Invalid, opVerify,
		"this is not a code: a code has six digits, a recovery code has sixteen letters and digits",
		"enter the code that the app shows now")
}

// newRecoveryCodes draws recovery codes, in the form that is shown and in the form that is stored.
func newRecoveryCodes(who identity.UserKey) (shown []string, stored [][]byte) {
	for range recoveryCodeCount {
		var b [recoveryBytes]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		s := base32.StdEncoding.EncodeToString(b[:])
		shown = append(shown, strings.Join([]string{s[:4], s[4:8], s[8:12], s[12:]}, "-"))
		stored = append(stored, hashRecoveryCode(who, s))
	}
	return shown, stored
}

// hashRecoveryCode binds a code, given without separators, to its user. A slow hash is not needed, because a
// code has 80 random bits.
func hashRecoveryCode(who identity.UserKey, code string) []byte {
	h := sha256.New()
	h.Write([]byte("threshold recovery v1"))
	for _, part := range []string{who.Connector, who.Subject, code} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// findRecoveryCode returns the index of the code's hash. It compares every stored hash, whichever one
// matches, so that the time it takes says nothing.
func findRecoveryCode(stored [][]byte, who identity.UserKey, c parsedCode) (at int, ok bool) {
	h := hashRecoveryCode(who, c.recovery)
	for i, s := range stored {
		if subtle.ConstantTimeCompare(h, s) == 1 && c.recovery != "" {
			at, ok = i, true
		}
	}
	return at, ok
}
