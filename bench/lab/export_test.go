package lab

// EmulatorOf is the process that runs the link of a lab, 0 when there is none.
func EmulatorOf(name string) int { return emulatorOf(name) }

// OwnerOf is the process that a made-up name belongs to.
func OwnerOf(name string) (int, bool) { return ownerOf(name) }
