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
	// maxInput bounds what is looked at of what a person typed, in bytes.
	maxInput = 64
	// recoveryCodes is how many a person gets.
	recoveryCodes = 10
	// recoveryBytes of randomness are 80 bits, 16 letters.
	recoveryBytes = 10
)

var (
	totpRE     = regexp.MustCompile(`^[0-9]{6}$`)
	recoveryRE = regexp.MustCompile(`^[A-Z2-7]{16}$`)
)

// parsedCode is what was typed, in the one form that is compared: one of the two, the other is empty.
type parsedCode struct{ totp, recovery string }

// parseCode drops the spaces and dashes that people type and apps show. What has neither form is no guess,
// and costs nothing.
func parseCode(typed string) (parsedCode, error) {
	if len(typed) <= maxInput {
		s := strings.ToUpper(
			strings.NewReplacer(" ", "", "-", "", "\t", "", "\u00a0", "", "\r", "", "\n", "").Replace(typed),
		)
		switch {
		case totpRE.MatchString(s):
			return parsedCode{totp: s}, nil
		case recoveryRE.MatchString(s):
			return parsedCode{recovery: s}, nil
		}
	}
	return parsedCode{}, fault.New(
		fault.Invalid,
		opVerify,
		"this is not a code: a code has six digits, a recovery code has sixteen letters and digits",
		"enter the code that the app shows now",
	)
}

// newRecoveryCodes draws recovery codes, as they are shown and as they are stored.
func newRecoveryCodes(who identity.UserKey) (shown []string, stored [][]byte) {
	for range recoveryCodes {
		var b [recoveryBytes]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		s := base32.StdEncoding.EncodeToString(b[:])
		shown = append(shown, strings.Join([]string{s[:4], s[4:8], s[8:12], s[12:]}, "-"))
		stored = append(stored, hashRecoveryCode(who, s))
	}
	return shown, stored
}

// hashRecoveryCode needs no slow hash: a code has 80 random bits.
func hashRecoveryCode(who identity.UserKey, normal string) []byte {
	h := sha256.New()
	h.Write([]byte("threshold recovery v1"))
	for _, part := range []string{who.Connector, who.Subject, normal} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// findRecoveryCode looks at every stored hash, whichever one matches.
func findRecoveryCode(stored [][]byte, who identity.UserKey, c parsedCode) (at int, ok bool) {
	h := hashRecoveryCode(who, c.recovery)
	for i, s := range stored {
		if subtle.ConstantTimeCompare(h, s) == 1 && c.recovery != "" {
			at, ok = i, true
		}
	}
	return at, ok
}
