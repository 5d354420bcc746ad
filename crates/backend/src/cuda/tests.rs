//! What can be said of a program without a device.

use super::*;
