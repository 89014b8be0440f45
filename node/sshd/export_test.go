package sshd

// OpenEntries returns how many entries the registry of what is open has.
func (s *Server) OpenEntries() int { return s.open.Len() }
