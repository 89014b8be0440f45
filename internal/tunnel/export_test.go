package tunnel

import (
	"crypto"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// AnswerForTest runs a node's part of the greeting on a bare control stream.
func AnswerForTest(c io.ReadWriter, key crypto.Signer, id identity.MachineID) error {
	var w Welcome
	if err := readMessage(c, frameWelcome, &w); err != nil {
		return err
	}
	signed, err := SignAttachment(key, Attachment{Node: id, Proxy: w.Proxy, Nonce: w.Nonce, Time: time.Now()})
	if err != nil {
		return err
	}
	if err := writeMessage(c, frameHello, Hello{V: Version, Attachment: signed}); err != nil {
		return err
	}
	return readMessage(c, frameResult, new(greetingResult))
}

// Bubble is synctest.Test for code that uses yamux. yamux keeps timers in a sync.Pool of the process, and a
// timer may not be used in another bubble than its own. Two garbage collections empty the pool, with its
// victim cache.
func Bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	emptyPools()
	defer emptyPools()
	synctest.Test(t, f)
}

func emptyPools() {
	runtime.GC()
	runtime.GC()
}
