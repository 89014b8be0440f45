package tunnel

import (
	"crypto"
	"io"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// AnswerForTest runs a node's part of the greeting on a bare control stream.
func AnswerForTest(c io.ReadWriter, key crypto.Signer, id identity.MachineID) error {
	w, err := welcomeMessage.read(c)
	if err != nil {
		return err
	}
	signed, err := SignAttachment(key, Attachment{Node: id, Proxy: w.Proxy, Nonce: w.Nonce, Time: time.Now()})
	if err != nil {
		return err
	}
	hello := Hello{V: 1, Instance: identity.NewInstanceID(), Attachment: signed}
	if err := helloMessage.write(c, hello); err != nil {
		return err
	}
	_, err = resultMessage.read(c)
	return err
}
