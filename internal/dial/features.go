package dial

import (
	"encoding/json"
	"fmt"

	"github.com/threshold-access/threshold/internal/wire"
)

// Features of SSH between client and node. A client names its own in the dial request. It learns those of the
// node from the reply, or, without a dial request, from FeaturesNotice.
const (
	// Faults, of a client: it reads faults, as fault.MarshalObject writes them. A node sends them to it in
	// the banner by which it refuses a login, as the description of a refused channel, in the reply to a
	// refused global request, and by EndNotice and ProgramFault. Other clients get text for people in a
	// banner and a description, and nothing in the other places: RFC 4254 section 4 has no field for it in a
	// reply.
	Faults wire.Feature = "faults"

	// EarlyRequests, of a node: it reads channel requests that a client puts into the message that opens a
	// session channel, to save a round trip. They go where that message has data for the channel's type,
	// which is empty for a session in RFC 4254 (sections 5.1 and 6.1). The server treats them as if they
	// came, in order, right after the channel was opened. A server without the feature would ignore or refuse
	// them, so it must not get any.
	EarlyRequests wire.Feature = "early-requests"
)

// FeaturesNotice is the name of a global request that wants no reply. By it a node's SSH server says, right
// after authentication, what it understands: end to end, also to clients that came without a dial request.
// RFC 8308 has the extension info of SSH for this, which x/crypto/ssh cannot send; OpenSSH sends hostkeys-00
// in the same way. Its payload is what MarshalFeatures writes.
const FeaturesNotice = "features@threshold"

// featuresNotice is the payload of FeaturesNotice.
type featuresNotice struct {
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"`
	Features wire.Features `json:"features"`
}

const featuresVersion = 1

var featuresFields = wire.Fields(featuresNotice{})

// MarshalFeatures returns the payload of FeaturesNotice.
func MarshalFeatures(features wire.Features) []byte {
	b, err := json.Marshal(featuresNotice{V: featuresVersion, Features: features})
	if err != nil {
		panic("dial: " + err.Error()) // names cannot fail
	}
	return b
}

// ParseFeatures reads the payload of FeaturesNotice.
func ParseFeatures(b []byte) (wire.Features, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("dial: features of %d bytes are larger than %d", len(b), MaxBytes)
	}
	var notice featuresNotice
	err := wire.Unmarshal("the node's list of features", b, &notice, featuresVersion, featuresFields)
	return notice.Features, err
}

// MaxFaultBytes bounds a fault inside SSH.
const MaxFaultBytes = 4 << 10

// EndNotice is the name of a global request that wants no reply. By it a node tells a client with the feature
// Faults why the connection ends, if the client has no session open. Its payload is a fault, as
// fault.MarshalObject writes it.
const EndNotice = "end-notice@threshold"

// ProgramFault is the name of a channel request that wants no reply. By it a node tells a client with the
// feature Faults why it refused or ended the program of a session. Its payload is a fault. The text for
// people is on standard error too.
const ProgramFault = "fault@threshold"
