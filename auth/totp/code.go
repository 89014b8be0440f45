package totp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"regexp"
	"strings"

	"github.com/threshold-access/threshold/internal/identity"
)

const (
	maxInput          = 64 // bytes of what a user types
	recoveryCodeCount = 10 // how many a user gets
	recoveryBytes     = 10 // random bytes in a recovery code: 80 bits, 16 letters
)

var (
	totpRE     = regexp.MustCompile(`^[0-9]{6}$`)
	recoveryRE = regexp.MustCompile(`^[A-Z2-7]{16}$`)
)

// parsedCode is what a user typed, in the form that is compared. One of the two fields is empty.
type parsedCode struct{ totp, recovery string }

// separators are what users type and apps show between the digits.
var separators = strings.NewReplacer(" ", "", "-", "", "\t", "", "\u00a0", "", "\r", "", "\n", "")

// parseCode returns what a user typed without separators. Text that has the form of no code gets fault
// Invalid: it is not a guess, so it does not count towards the lockout.
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
	return parsedCode{}, secondFactorMalformed.New(opVerify)
}

// newRecoveryCodes draws the recovery codes of a user, in the form that is shown and in the form that is
// stored.
func newRecoveryCodes(who identity.UserKey) (shown []string, stored [][]byte) {
	for range recoveryCodeCount {
		var b [recoveryBytes]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		text := base32.StdEncoding.EncodeToString(b[:])
		shown = append(shown, strings.Join([]string{text[:4], text[4:8], text[8:12], text[12:]}, "-"))
		stored = append(stored, hashRecoveryCode(who, text))
	}
	return shown, stored
}

// hashRecoveryCode returns the hash of a code, given without separators, and of its user: a code counts only
// for the user to whom it was given. Each part has its length in front, so that no two lists of parts have
// the same hash. A slow hash is not needed, because a code has 80 random bits.
func hashRecoveryCode(who identity.UserKey, code string) []byte {
	h := sha256.New()
	h.Write([]byte("threshold recovery v1"))
	for _, part := range []string{who.Connector, who.Subject, code} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// findRecoveryCode returns the index of the code's hash among the stored ones, and false for a code that is
// not there. It compares every stored hash, whichever one matches, so that the time it takes says nothing.
func findRecoveryCode(stored [][]byte, who identity.UserKey, code parsedCode) (at int, ok bool) {
	want := hashRecoveryCode(who, code.recovery)
	for i, hash := range stored {
		if subtle.ConstantTimeCompare(want, hash) == 1 && code.recovery != "" {
			at, ok = i, true
		}
	}
	return at, ok
}
