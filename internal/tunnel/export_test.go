package tunnel

import (
	"crypto"
	"io"
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
