// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// What usher knows of the haus contracts, and no more: their logs, in their order, from a factory that makes a kiosk
/// for each event. They take no money.
contract Factory {
    event EventCreated(
        uint256 indexed eventId,
        address indexed creator,
        uint256 startDate,
        uint256 reservePrice,
        string metadataURI,
        string artCategory,
        address ticketKioskAddress
    );
    event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);

    uint256 public totalEvents;

    /// Anybody may name anybody as the creator, as with haus.
    function createEventForCreator(address creator, uint256 startDate, string calldata artCategory) external {
        uint256 id = totalEvents++;
        emit Transfer(address(0), creator, id);
        emit EventCreated(id, creator, startDate, 0, "ipfs://metadata", artCategory, address(new Kiosk()));
    }
}

/// An event's ticket contract.
contract Kiosk {
    event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
    event TicketMinted(
        uint256 indexed ticketId,
        address indexed buyer,
        string ticketName,
        string artCategory,
        uint256 price
    );
    event TicketRefunded(uint256 indexed ticketId, address indexed holder, uint256 amount);

    uint256 public ticketsSold;
    mapping(uint256 => address) public ownerOf;

    function purchaseTicket() external {
        uint256 id = ++ticketsSold;
        move(address(0), msg.sender, id);
        emit TicketMinted(id, msg.sender, "a ticket", "jazz", 0);
    }

    function transferFrom(address from, address to, uint256 id) external {
        require(ownerOf[id] == msg.sender && from == msg.sender, "not yours");
        move(from, to, id);
    }

    function burn(uint256 id) external {
        require(ownerOf[id] == msg.sender, "not yours");
        move(msg.sender, address(0), id);
    }

    function refund(uint256 id) external {
        require(ownerOf[id] == msg.sender, "not yours");
        emit TicketRefunded(id, msg.sender, 0);
    }

    function move(address from, address to, uint256 id) private {
        ownerOf[id] = to;
        emit Transfer(from, to, id);
    }
}
