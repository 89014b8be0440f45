package pty

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// mode is one terminal mode as clients send it (RFC 4254 section 8).
type mode struct {
	op    byte
	value uint32
}

// maxModes bounds the modes of one request; the RFC defines about 60.
const maxModes = 256

// Opcodes with a special meaning (RFC 4254 section 8).
const (
	opEnd            = 0
	opFirstUndefined = 160 // from here on the length of the argument is not defined
)

// parseModes reads pairs of an opcode (1 byte) and a value (4 bytes), up to the end marker or the first
// opcode whose argument is not defined. It reads maxModes pairs at most.
func parseModes(b []byte) []mode {
	const pairBytes = 5
	var modes []mode
	for len(b) >= pairBytes && b[0] != opEnd && b[0] < opFirstUndefined && len(modes) < maxModes {
		modes = append(modes, mode{op: b[0], value: binary.BigEndian.Uint32(b[1:pairBytes])})
		b = b[pairBytes:]
	}
	return modes
}

// controlCharacters are indices of termios.Cc, by the opcodes of RFC 4254 section 8.
var controlCharacters = map[byte]int{
	1:  unix.VINTR,
	2:  unix.VQUIT,
	3:  unix.VERASE,
	4:  unix.VKILL,
	5:  unix.VEOF,
	6:  unix.VEOL,
	7:  unix.VEOL2,
	8:  unix.VSTART,
	9:  unix.VSTOP,
	10: unix.VSUSP,
	12: unix.VREPRINT,
	13: unix.VWERASE,
	14: unix.VLNEXT,
	18: unix.VDISCARD,
}

// inputFlags are bits of termios.Iflag by opcode (IUTF8: RFC 8160).
var inputFlags = map[byte]uint32{
	30: unix.IGNPAR,
	31: unix.PARMRK,
	32: unix.INPCK,
	33: unix.ISTRIP,
	34: unix.INLCR,
	35: unix.IGNCR,
	36: unix.ICRNL,
	37: unix.IUCLC,
	38: unix.IXON,
	39: unix.IXANY,
	40: unix.IXOFF,
	41: unix.IMAXBEL,
	42: unix.IUTF8,
}

// localFlags are bits of termios.Lflag by opcode.
var localFlags = map[byte]uint32{
	50: unix.ISIG,
	51: unix.ICANON,
	52: unix.XCASE,
	53: unix.ECHO,
	54: unix.ECHOE,
	55: unix.ECHOK,
	56: unix.ECHONL,
	57: unix.NOFLSH,
	58: unix.TOSTOP,
	59: unix.IEXTEN,
	60: unix.ECHOCTL,
	61: unix.ECHOKE,
	62: unix.PENDIN,
}

// outputFlags are bits of termios.Oflag by opcode.
var outputFlags = map[byte]uint32{
	70: unix.OPOST,
	71: unix.OLCUC,
	72: unix.ONLCR,
	73: unix.OCRNL,
	74: unix.ONOCR,
	75: unix.ONLRET,
}

// disabledCharacter is the value that a client sends for a control character that is disabled.
const disabledCharacter = 255

// applyModes sets those modes of a terminal that Linux has. It skips the others: a client sends the modes of
// its own terminal, and may run on another system.
func applyModes(tty *os.File, modes []mode) error {
	if len(modes) == 0 {
		return nil
	}
	return withFD(tty, func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		for _, m := range modes {
			m.apply(tio)
		}
		return unix.IoctlSetTermios(fd, unix.TCSETS, tio)
	})
}

// apply sets one mode in tio. The opcode is that of a control character or of a flag; any other changes
// nothing.
func (m mode) apply(tio *unix.Termios) {
	if i, ok := controlCharacters[m.op]; ok {
		tio.Cc[i] = byte(m.value)
		if m.value == disabledCharacter {
			tio.Cc[i] = 0 // _POSIX_VDISABLE on Linux
		}
	}
	set := func(flags *uint32, bits map[byte]uint32) {
		if bit, ok := bits[m.op]; ok {
			*flags &^= bit
			if m.value != 0 {
				*flags |= bit
			}
		}
	}
	set(&tio.Iflag, inputFlags)
	set(&tio.Lflag, localFlags)
	set(&tio.Oflag, outputFlags)
}
